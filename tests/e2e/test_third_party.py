"""Third-party packages have every feature of built-in ones; a broken package does not affect the others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from forgather_core.checks.known import known_checks

from .conftest import Run

pytestmark = pytest.mark.slow
PACKAGES = Path(__file__).parent.parent / "packages"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install three packages: one of today, one of an earlier version, and a broken one."""
    place = tmp_path_factory.mktemp("packages")
    sources = [place / name for name in ("parallel_lm", "older_lm", "broken_lm")]
    for source in sources:  # a build writes files into its source directory
        shutil.copytree(PACKAGES / source.name, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(place / "site"), *map(str, sources)], check=True, capture_output=True)
    return place / "site"


@pytest.fixture
def environment(environment: dict[str, str], site: Path) -> dict[str, str]:
    """The environment with the packages installed."""
    path = [str(site), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": ":".join(path)}


def test_it_is_listed_helps_constructs_trains_and_loads(forgather: Run, python: Run, tmp_path: Path) -> None:
    listed = json.loads(forgather("ls", "--json").stdout)
    assert {d["name"] for d in listed["definitions"]} >= {"llama", "parallel"}
    assert listed["broken"] == ["broken"]
    plugins = {p["name"]: p for p in json.loads(forgather("plugins", "--json", code=1).stdout)["plugins"]}
    assert (plugins["parallel"]["version"], plugins["parallel"]["distribution"]) == ("1.2.3", "parallel-lm")
    assert plugins["broken"]["state"] == "broken"
    assert "a_package_that_does_not_exist" in plugins["broken"]["error"]

    page = forgather("-t", "parallel", "model", "--help").stdout
    assert "--branch-scale FLOAT" in page
    assert "--rope-parameters" not in page
    wrong = forgather("-t", "parallel", "model", "--rope-parameters", "{}", "show", code=2).stderr
    others = "llama, mistral, older_lm, qwen3 or smollm3"
    assert f"--rope-parameters is not an option of 'parallel': remove it, or use it with {others}" in wrong
    assert "broken" in forgather("-t", "broken", "model", "show", code=2).stderr

    options = ("--branch-scale", "0.25", "--activation", "relu", "--tie-word-embeddings")
    parallel = ("-t", "parallel/small", "model", "--device", "cpu", *options)
    forgather(*parallel, "--save-checkpoint", "--safetensors", "construct")
    forgather(*parallel, "test", "--sequence-length", "32", "--packed")
    directory = tmp_path / "output_models" / "parallel_small"
    assert (directory / "parallel_block.py").is_file()
    python(
        """
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("output_models/parallel_small", trust_remote_code=True)
assert model.model.layers[0].scale == 0.25
assert model.lm_head.weight is model.model.embed_tokens.weight
ids = torch.arange(10)[None]
together = torch.cat((ids, ids), 1)
packed = model(together, position_ids=torch.cat((ids, ids), 1)).logits
assert torch.allclose(packed[:, 10:], model(ids).logits, atol=1e-5)
"""
    )


def test_the_broken_package_is_reported_only_where_it_matters(forgather: Run) -> None:
    assert "broken" not in forgather("-t", "llama/4M", "model", "show").stdout
    shown = forgather("ls").stdout
    assert "broken plugins: broken" in shown
    off = forgather("plugins", "--json", FORGATHER_DISABLE_PLUGINS="broken")
    assert {p["name"]: p["state"] for p in json.loads(off.stdout)["plugins"]}["broken"] == "disabled"


def test_a_package_of_an_earlier_version_works_with_deprecation_warnings(forgather: Run, python: Run) -> None:
    """`older_lm` was written by `plugin new` before the names of checks and references changed; it is never edited.

    call-agreement takes longer than all other checks. It runs one case here: tests/test_my_model.py runs them for the
    package that `plugin new` writes today, which differs in names only.
    """
    older = ("-t", "older_lm", "model")
    forgather(*older, "--device", "cpu", "--save-checkpoint", "--safetensors", "construct")
    others = ",".join(check.name for check in known_checks() if check.quick and check.name != "call-agreement")
    report = json.loads(forgather(*older, "verify", "--quick", "--checks", others, "--json").stdout)
    results = {check["name"]: check["result"] for check in report["checks"]}
    assert report["failed"] == 0, report
    assert results["reference-parity"] == results["init-std"] == "passed"
    case = ("--case", "mode=train,rows=unequal,padding=left,mask=2d,cache=dynamic,chunks=uneven")
    old = json.loads(forgather(*older, "verify", "--check", "spreads,rows,call-agreement", *case, "--json").stdout)
    assert [check["name"] for check in old["checks"]] == ["batch-invariance", "call-agreement", "init-std"]
    assert old["failed"] == 0, old

    done = python(
        """
import warnings
warnings.simplefilter("always")
import forgather_older_lm.reference
""",
        alone=False,
    )
    for new in ("InitStd", "glu", "apply_rope", "truncated_normal_std", "Reference(init_std=...)"):
        assert f"use forgather_core.reference.{new}" in done.stderr or f"use {new}" in done.stderr
    assert "DeprecationWarning" in done.stderr
