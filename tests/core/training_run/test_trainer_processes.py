"""The Trainer in several processes, each with the whole model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from forgather_core.checkpoint import step_checkpoints
from forgather_core.training_run import trainer as module
from tests.support.ranks import run_ranks

from .test_trainer import trainer


def saves(place: str) -> list[str]:
    """Train with checkpoints, and return the names of the directories that this process has saved."""
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    saved: list[str] = []
    save = module.save_checkpoint

    def recorded(path: Any, *args: Any, **kwargs: Any) -> Any:
        saved.append(Path(path).name)
        return save(path, *args, **kwargs)

    module.save_checkpoint = recorded  # type: ignore[attr-defined]
    trainer(Path(place), max_steps=2, save_steps=1).train()
    return saved


def test_one_process_saves_the_model_that_each_has(tmp_path: Path) -> None:
    assert run_ranks(saves, 2, str(tmp_path)) == [["checkpoint-1", "checkpoint-2"], []]
    found = step_checkpoints(tmp_path)
    assert [(one.step, one.problem) for one in found] == [(1, None), (2, None)]
    for one in found:
        assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"} <= {file.name for file in one.path.iterdir()}
