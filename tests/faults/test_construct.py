"""Rebuild a model directory with other options and weights: after a kill, both are old or both are new."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from forgather_core.checkpoint import load_checkpoint

from .models import tree
from .server import Server

pytestmark = pytest.mark.faults

SMALL: dict[str, Any] = {
    "tokenizer": "bytes", "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8,
}  # fmt: skip
OLD, NEW = SMALL | {"hidden_size": 16}, SMALL | {"hidden_size": 32, "max_shard_size": "20KB"}


def hidden_size(directory: Path) -> int:
    """Return the generation of the model that a directory loads as, completely."""
    model, info = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert load_checkpoint(directory, model, strict=True).complete
    return int(model.config.hidden_size)


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 8))])
def test_killed_while_a_directory_is_rebuilt_with_its_weights(memory_path: Path, saver: Server, part: int) -> None:
    """Every eighth step: writing the files, the exchange, removing the old directory."""
    old, place = memory_path / "old" / "model", memory_path / "place"
    assert saver.save(old, 0, {}, flags=OLD) == "ok"
    (old / "notes.txt").write_text("mine")
    found, names = [], set()
    for step in range(1 + part, 2000, 8):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(old.parent, place)
        state = saver.save(place / "model", 0, {}, flags=NEW, kill_at=step)
        assert state in {"ok", "killed"}
        found.append(hidden_size(place / "model"))
        assert (place / "model" / "notes.txt").read_text() == "mine"
        if state == "ok":
            names = tree(place / "model")
            break
    assert {16, 32} == set(found)
    assert found == sorted(found)
    assert saver.save(place / "model", 0, {}, flags=NEW) == "ok"
    assert tree(place / "model") == names
    assert [path.name for path in place.iterdir()] == ["model"]


@pytest.mark.parametrize("step", range(10, 100, 30))
def test_leftovers_of_a_killed_rebuild_are_removed_by_the_next(tmp_path: Path, saver: Server, step: int) -> None:
    directory = tmp_path / "place" / "model"
    assert saver.save(directory, 0, {}, flags=OLD) == "ok"
    assert saver.save(directory, 0, {}, flags=NEW, kill_at=step) == "killed"
    assert saver.save(directory, 0, {}, flags=OLD) == "ok"
    assert hidden_size(directory) == 16
    assert [path.name for path in directory.parent.iterdir()] == ["model"]
    assert not [name for name in tree(directory) if name.startswith(".")]
