"""Reports of all kinds, from the Python interface, with the smallest models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

import forgather as fg
from tests.support.settings import SMALLEST

Reports = dict[str, dict[str, Any]]
_RUN = {"tokens": 256, "batch_size": 2, "sequence_length": 16}


@pytest.fixture(scope="session")
def made_reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    place = tmp_path_factory.mktemp("reports")
    project = place / "project"
    project.mkdir()
    for number, word in enumerate("abcdefgh"):
        (project / f"{number}.txt").write_text(f"The {word} fox jumps over the {word} dog.\n" * 20)
    (project / "default.yaml").write_text("source: text\nfiles: '*.txt'\n")
    given = {**SMALLEST, "output_dir": place / "model", "device": "cpu"}
    made = fg.construct("llama", **given, save_checkpoint=True)
    again = fg.construct("llama", **given, load_from_checkpoint=made.directory)
    assert made.saved is not None and again.loaded is not None
    results: list[Any] = [
        made,
        made.saved,
        again.loaded,
        fg.show("llama", **SMALLEST, init=True),
        fg.test("llama", **given, steps=3, batch_size=1, sequence_length=16),
        fg.verify(made.directory, checks="causality,sliding-window"),
        fg.estimate("llama", **SMALLEST),
        fg.compare("llama", "qwen3", "llama", num_hidden_layers=1),
        fg.list_models(),
        fg.list_plugins(),
        fg.list_checks(),
        fg.list_datasets(),
        fg.new_plugin("newlm", output_dir=place / "newlm"),
        fg.inspect_checkpoint(made.directory),
        fg.describe_dataset(project, tokenizer="bytes"),
        fg.train("llama", **given | {"output_dir": place / "trained"}, **_RUN, dataset_project=project),
        fg.sample(place / "trained", "The fox", max_new_tokens=4, device="cpu"),
        fg.evaluate(place / "trained", dataset_project=project, sequence_length=16, device="cpu"),
        fg.train_tokenizer(project, vocab_size=280, output_dir=place / "tokenizer"),
    ]
    return {result.kind: result.to_dict() for result in results} | {"unknown": _unknown()}


@pytest.fixture
def reports(made_reports: Reports) -> Reports:
    """A report of each kind, which a test may change."""
    return copy.deepcopy(made_reports)


def _unknown() -> dict[str, Any]:
    rows = [{"name": "first", "count": 1234567, "where": None}, {"name": "second", "count": 2, "where": [1, 2]}]
    return {"name": "other", "single": 1.5, "rows": rows, "group": {"inner": {"deep": {"deeper": {"deepest": [1]}}}}}


def failed(verification: dict[str, Any], directory: str | Path = "model") -> dict[str, Any]:
    """Return the report of `verify` with a check that failed."""
    case = {"what": "one token at a time", "error": 1.5, "tolerance": 1e-5, "holds": False, "where": "row 0"}
    check = {
        "name": "kv-cache",
        "promise": "Logits computed in chunks equal those of the whole text.",
        "result": "failed",
        "measured": [case | {"failure": None}] * 9,
        "reason": None,
        "cause": "positions that ignore cached tokens",
        "seconds": 0.5,
        "details": {},
    }
    return verification | {"directory": str(directory), "checks": [*verification["checks"], check], "failed": 1}
