"""Files written by earlier versions still work: directories, checkpoints, configurations and plugins.

`python tools/keep_artifacts.py VERSION` made the archives, with the version of that name installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .conftest import DEFINITIONS, Run

ARCHIVES = sorted((Path(__file__).parent.parent / "artifacts").glob("*.tar.xz"))
pytestmark = pytest.mark.regression("old-artifacts")


@pytest.fixture(scope="session", params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an unpacked archive; tests copy the files that they change."""
    place = tmp_path_factory.mktemp("artifacts")
    with tarfile.open(request.param) as archive:
        archive.extractall(place, filter="data")
    return next(place.iterdir())


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    """Return a writable copy in the test's directory."""
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return tmp_path


def check_logits(python: Run, kept: Path, directory: str, name: str) -> None:
    """Compare the logits of a directory, loaded without Forgather, with those of the earlier version."""
    python(f"""
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
logits = load_file({str(kept / "logits.safetensors")!r})
model = AutoModelForCausalLM.from_pretrained({directory!r}, trust_remote_code=True).eval()
with torch.no_grad():
    torch.testing.assert_close(model(logits["ids"]).logits, logits[{name!r}], rtol=0, atol=1e-5)
""")


def identify_again(directory: Path) -> None:
    """Set inodes and times in the journal of a killed save to those of the files in this copy."""
    (journal,) = directory.glob(".checkpoint.tmp-*/journal.json")
    text = json.loads(journal.read_text())
    for files in (text["new"], text["old"]):
        for name in files:
            found = (directory / name).stat()
            files[name] = [found.st_ino, found.st_mtime_ns, found.st_size]
    journal.write_text(json.dumps(text))


@pytest.mark.few(0, slow=3)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_directory_loads_rebuilds_and_keeps_its_weights(
    name: str, kept: Path, copied: Path, python: Run, forgather: Run
) -> None:
    check_logits(python, kept, name, name)
    forgather("checkpoint", "inspect", name)
    sizes = ["--hidden-size", "32", "--intermediate-size", "48", "--num-hidden-layers", "2", "--tokenizer", "bytes"]
    config = json.loads((copied / name / "config.json").read_text())
    for option in ("num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window", "tie_word_embeddings"):
        if name != "single_head" and option in config and config[option] not in (None, False):
            flag = "--" + option.replace("_", "-")
            sizes += [flag] if config[option] is True else [flag, str(config[option])]
    build = ["--device", "cpu", "--load-from-checkpoint", name, "--save-checkpoint", "--output-dir"]
    forgather("-t", name, "model", *sizes, *build, "carried", "construct")
    check_logits(python, kept, "carried", name)
    forgather("-t", name, "model", "-r", *sizes, *build, name, "construct")  # weights carried over to today's code
    check_logits(python, kept, name, name)


def test_a_killed_save_is_the_old_checkpoint_and_the_next_save_cleans_up(kept: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from forgather.ml.sharded_checkpoint import load_checkpoint, save_checkpoint

    place = tmp_path / "killed"
    shutil.copytree(kept / "killed", place)
    identify_again(place)
    model = AutoModelForCausalLM.from_pretrained(place, trust_remote_code=True).eval()
    logits = load_file(kept / "logits.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(model(logits["ids"]).logits, logits["llama"], rtol=0, atol=1e-5)
    save_checkpoint(place, model, safetensors=True, max_shard_size=20_000)
    assert not list(place.glob(".checkpoint.tmp-*"))
    named = set(json.loads((place / "model.safetensors.index.json").read_text())["weight_map"].values())
    assert {path.name for path in place.glob("*.safetensors")} == named
    load_checkpoint(place, model)
    with torch.no_grad():
        torch.testing.assert_close(model(logits["ids"]).logits, logits["llama"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_configuration_and_a_plugin(copied: Path, forgather: Run, environment: dict[str, str]) -> None:
    shown = json.loads(forgather("-t", "configuration.yaml", "model", "show", "--json").stdout)
    assert shown["options"]["intermediate_size"]["value"] == 32
    forgather("-t", "configuration.yaml", "model", "test", "--sequence-length", "16")
    site = copied / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, copied / "parallel_lm"], check=True, capture_output=True)
    path = {"PYTHONPATH": ":".join(filter(None, [str(site), environment.get("PYTHONPATH")]))}
    options = ("--device", "cpu", "--save-checkpoint", "--output-dir", "parallel")
    forgather("-t", "parallel", "model", *options, "construct", **path)
    forgather("-t", "parallel", "model", "--device", "cpu", "test", "--sequence-length", "16", **path)
