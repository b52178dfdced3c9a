"""Each part of a step's rows has dropout of its own; the processes of a tp group have the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import forgather
from forgather_core.training_run.trainer import Trainer
from tests.support.ranks import run_ranks

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "device": "cpu", "tokenizer": "bytes",
    "embedding_dropout": 0.2, "sequence_length": 16, "lr": 1e-2, "save_every": 2, "eval_every": 100,
}  # fmt: skip


class StoppedError(Exception):
    """The end of a run that is to be continued."""


def states(folder: str, mesh: str, rows: int, last: int, resume: bool) -> list[str]:
    """Train until a step, and return a digest of the random state before each one."""
    found: list[str] = []
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # accelerate requires them, and uses neither

    class Watched(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if len(found) == last:
                raise StoppedError
            found.append(str(hash(bytes(torch.get_rng_state().tolist()))))
            return step(self, *args, **kwargs)

    step = Trainer.training_step
    Trainer.training_step = Watched.training_step  # type: ignore[method-assign]
    try:
        options = SMALL | {"parallel": mesh, "batch_size": rows, "tokens": "1024", "resume": resume}
        data = {"dataset_project": f"{folder}/texts"}
        forgather.train("causal_lm", output_dir=f"{folder}/model", **options, **data)
    except StoppedError:
        pass
    finally:
        Trainer.training_step = step  # type: ignore[method-assign]
    return found


@pytest.fixture
def texts(tmp_path: Path) -> str:
    (tmp_path / "texts").mkdir()
    for number in range(30):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"text number {number} " * (number % 7 + 3))
    return str(tmp_path)


def test_parts_differ_and_groups_agree_after_other_meshes(texts: str) -> None:
    one, two = run_ranks(states, 2, texts, "fsdp", 4, 3, False, seconds=100)
    assert len(one) == 3
    assert not set(one) & set(two)
    one, two = run_ranks(states, 2, texts, "tp", 8, 3, True, seconds=100)
    assert len(one) == 3  # after the checkpoint of step 2
    assert one == two
    one, two = run_ranks(states, 2, texts, "fsdp", 4, 9, True, seconds=100)
    assert len(one) == 4  # after that of step 4
    assert not set(one) & set(two)


def test_a_run_that_continues_over_the_same_mesh_draws_the_same_numbers(texts: str) -> None:
    whole = run_ranks(states, 2, texts, "fsdp", 4, 9, False, seconds=100)
    (Path(texts) / "model").rename(Path(texts) / "whole")
    run_ranks(states, 2, texts, "fsdp", 4, 3, False, seconds=100)
    rest = run_ranks(states, 2, texts, "fsdp", 4, 9, True, seconds=100)
    assert [len(one) for one in rest] == [6, 6]
    assert rest == [one[2:] for one in whole]
