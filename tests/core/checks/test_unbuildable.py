"""A model that cannot be built is one finding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from transformers import LlamaConfig

from forgather_core.checks import CHECKS, Measured, ModelUnderTest, check, choose, verify
from tests.support.native_models import write_type

NAMES = ["causality", "padding", "loss", "imports"]


def write_llama(directory: Path, **options: object) -> Path:
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaConfig(architectures=["LlamaForCausalLM"], **sizes).save_pretrained(directory)
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | options), encoding="utf-8")
    return directory


def test_a_model_that_cannot_be_built_fails_once(tmp_path: Path) -> None:
    report = verify(write_llama(tmp_path / "model", hidden_act="none-such"), choose(CHECKS, NAMES))
    rows = {row["name"]: row for row in report["checks"]}
    assert rows["causality"]["result"] == "failed"
    assert "none-such" in rows["causality"]["reason"]
    for name in ("padding", "loss"):
        assert (rows[name]["result"], rows[name]["cause"]) == ("skipped", None)
        assert rows[name]["reason"] == "the model cannot be built: see causality"
    assert report["failed"] == 1


def test_the_reason_is_that_of_the_simplest_attention(tmp_path: Path) -> None:
    directory = write_type("reformer", tmp_path / "model", is_decoder=True, axial_pos_embds_dim=[1, 2])
    rows = {row["name"]: row for row in verify(directory, choose(CHECKS, ["causality"]))["checks"]}
    assert rows["causality"]["result"] == "failed"
    assert "axial" in rows["causality"]["reason"]


@check("first", cause="none")
def first(subject: ModelUnderTest) -> Iterator[Measured]:
    """Raise an error."""
    raise ValueError("no mask")


@check("second", cause="none")
def second(subject: ModelUnderTest) -> Iterator[Measured]:
    """Raise the same error."""
    raise ValueError("no mask")


def test_equal_errors_of_a_model_that_can_be_built_remain(tmp_path: Path) -> None:
    report = verify(write_llama(tmp_path / "model"), [first, second])
    assert [row["result"] for row in report["checks"]] == ["failed", "failed"]
