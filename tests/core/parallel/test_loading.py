"""Weights are loaded over a mesh without drawing any first; if one process fails, the directory stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import forgather
from forgather_core import checkpoint
from forgather_core.errors import CheckpointError, ForgatherError
from tests.support.ranks import run_ranks

from .test_mesh import digests

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "device": "cpu"}


def loaded(source: str, target: str, mesh: str, name: str) -> dict[str, str]:
    options = SMALL | {"load_from_checkpoint": source, "no_init_weights": True, "parallel": mesh}
    model: Any = forgather.construct(name, output_dir=target, **options).model
    buffers = {name: str(one.tolist()) for name, one in model.named_buffers()}
    return digests(model) | buffers


@pytest.mark.parametrize(("name", "mesh"), [("llama", "fsdp"), ("qwen3", "tp"), ("deepone", "ddp")])
def test_loads_without_drawing_weights(name: str, mesh: str, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    model: Any = forgather.construct(name, output_dir=place, save_checkpoint=True, **SMALL).model
    expected = digests(model) | {name: str(one.tolist()) for name, one in model.named_buffers()}
    for found in run_ranks(loaded, 2, str(place), str(tmp_path / "new"), mesh, name, seconds=60):
        assert found == expected


def loaded_unless(source: str, target: str, rank: int, error: Exception) -> None:
    load_into = checkpoint.load_into

    def fails(*args: Any, **kwargs: Any) -> Any:
        if torch.distributed.get_rank() == rank:
            raise error
        return load_into(*args, **kwargs)

    checkpoint.load_into = fails
    try:
        options = SMALL | {"load_from_checkpoint": source, "parallel": "fsdp", "refresh_model": True}
        forgather.construct("llama", output_dir=target, rms_norm_eps=1e-4, **options)
    finally:
        checkpoint.load_into = load_into


@pytest.mark.parametrize("error", [CheckpointError("is broken"), ValueError("a bug")], ids=["expected", "bug"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_cannot_load_leaves_the_directory(rank: int, error: Exception, tmp_path: Path) -> None:
    place, target = tmp_path / "saved", tmp_path / "model"
    for directory in (place, target):
        forgather.construct("llama", output_dir=directory, save_checkpoint=True, **SMALL)
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    found = run_ranks(loaded_unless, 2, str(place), str(target), rank, error, seconds=60)
    assert type(found[rank]) is type(error)
    assert isinstance(found[1 - rank], ForgatherError)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.startswith(".")) == ["model", "saved"]
