"""transformers' own model tests: each one that passes for transformers' Llama passes for every definition."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.support.fork_server import ForkServer

from .conftest import DEFINITIONS, SAMPLE_OF_DEFINITIONS, run_in

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("model_suite.py")
NEEDED = ("test_modeling_common.py", "test_configuration_common.py")
PARAMETERIZED = "parameterized==0.9.0"  # transformers' tests import it
SIZES = ("--hidden-size", "32", "--intermediate-size", "48", "--num-hidden-layers", "2", "--tokenizer", "bpe-2k")

# Tests that do not apply to a definition, with the reason. All others must pass if Llama passes.
NO_ROTARY_POSITIONS = "the definition has no rotary positions"
EXCEPTIONS = {
    definition: {
        "test_model_rope_scaling_frequencies": NO_ROTARY_POSITIONS,
        "test_model_rope_scaling_from_config_0_linear": NO_ROTARY_POSITIONS,
        "test_model_rope_scaling_from_config_1_dynamic": NO_ROTARY_POSITIONS,
        "test_model_rope_scaling_from_config_2_yarn": NO_ROTARY_POSITIONS,
    }
    for definition in ("causal_lm", "deepone", "single_head")
}

Outcomes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tests of the installed transformers release, from its source distribution; skip without a registry."""
    place = tmp_path_factory.mktemp("sources")
    release = f"transformers=={transformers.__version__}"
    archive = os.environ.get("TRANSFORMERS_SDIST")  # a copy of the distribution, where there is no registry
    if archive is None:
        options = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", str(place))
        _pip("download", *options, release)
        archive = str(next(place.glob("transformers-*.tar.gz")))
    _pip("install", "--no-deps", "--target", str(place), PARAMETERIZED)
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            parts = Path(member.name).parts
            if len(parts) == 3 and parts[1] == "tests" and member.isfile():
                member.name = str(Path(*parts[1:]))
                tar.extract(member, place, filter="data")
    if missing := [name for name in NEEDED if not (place / "tests" / name).exists()]:
        pytest.skip(f"the source distribution of {release} has no {', '.join(missing)}")
    (place / "tests" / "__init__.py").touch()  # the tests import their own directory
    return place


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip("the package registry does not answer; set TRANSFORMERS_SDIST to a copy of the distribution")
    if done.returncode:
        pytest.skip(f"pip cannot get it: {done.stderr.strip().splitlines()[-1] if done.stderr else 'no reason given'}")


Suite = Callable[[str], Outcomes]


@pytest.fixture(scope="module")
def suite(sources: Path, tmp_path_factory: pytest.TempPathFactory, server: ForkServer) -> Suite:
    """Return a function that returns the outcome of each test by model: "transformers" is transformers' Llama."""
    place = tmp_path_factory.mktemp("suite")
    run = run_in(place, server)

    @cache
    def outcomes(name: str) -> Outcomes:
        report = place / f"{name}.json"
        directory = [name] if name in DEFINITIONS else []
        if directory:
            command = ("-m", "forgather_cli.main", "-t", name, "model", *SIZES, "--device", "cpu")
            run(*command, "--output-dir", name, "construct")
        run(str(SCRIPT), str(sources), str(report), *directory)
        result: Outcomes = json.loads(report.read_text())
        return result

    return outcomes


@pytest.mark.parametrize("definition", SAMPLE_OF_DEFINITIONS)
def test_what_passes_for_llama_passes_for_every_definition(suite: Suite, definition: str) -> None:
    llama, own = suite("transformers"), suite(definition)
    print(table({"transformers": llama, definition: own}))
    passed = {name for name, test in llama.items() if test["outcome"] == "passed"}
    assert len(passed) > 100
    exceptions = EXCEPTIONS.get(definition, {})
    assert {name: own[name]["why"] for name in passed - exceptions.keys() if own[name]["outcome"] != "passed"} == {}
    failed = {name for name, test in own.items() if test["outcome"] == "failed"}
    assert {name: own[name]["why"] for name in failed if llama.get(name, {}).get("outcome") != "failed"} == {}
    assert {own[name]["outcome"] for name in exceptions if name in own} <= {"skipped"}, "an exception is not needed"


def table(outcomes: dict[str, Outcomes]) -> str:
    """Return the counts of all models, as in docs/compatibility.md."""
    kinds = ("passed", "skipped", "failed")
    counts = {model: Counter(test["outcome"] for test in tests.values()) for model, tests in outcomes.items()}
    rows = (f"| {model} | {' | '.join(str(counts[model][kind]) for kind in kinds)} |" for model in outcomes)
    return "\n".join((f"| | {' | '.join(kinds)} |", "|---|---|---|---|", *rows))
