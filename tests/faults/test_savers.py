"""Several processes save into one directory, and others read: never a mix, always one whole save."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from .models import generation_of, model_of, save, tree
from .scenarios import SHARDED

pytestmark = pytest.mark.faults

FORKS = multiprocessing.get_context("forkserver")  # of a process that has imported the models
FORKS.set_forkserver_preload(["tests.faults.models"])


def save_many(directory: Path, generations: range, how: dict[str, Any], ready: Barrier) -> None:
    """Save generations one after another, from when all processes are ready."""
    model_of(0)  # triggers late imports
    ready.wait()
    for generation in generations:
        save(directory, generation, **how)


def processes(directory: Path, hows: list[dict[str, Any]], count: int) -> list[BaseProcess]:
    """Start a process for each way of saving, and return when they save."""
    ready = FORKS.Barrier(len(hows) + 1)
    firsts = [100 * (number + 1) for number in range(len(hows))]
    started: list[BaseProcess] = [
        FORKS.Process(target=save_many, args=(directory, range(first, first + count), how, ready))
        for first, how in zip(firsts, hows, strict=True)
    ]
    for process in started:
        process.start()
    ready.wait(timeout=120)
    return started


@pytest.mark.parametrize("kind", ["in place", "formats", "exchanged"])
def test_savers_take_turns_and_readers_see_one_save(tmp_path: Path, kind: str) -> None:
    """In place, readers load while others save; for exchanged directories only the final state is checked."""
    directory = tmp_path / "place" / "model"
    model_of(1).save_pretrained(directory)
    (directory / "notes.txt").write_text("mine")
    hows: dict[str, list[dict[str, Any]]] = {
        "in place": [SHARDED, {"safetensors": True, "max_shard_size": 9_000}],
        "formats": [SHARDED, {"max_shard_size": 20_000}],
        "exchanged": [{"marked": True, **SHARDED}, {"marked": True, "max_shard_size": 20_000}],
    }
    started = processes(directory, hows[kind], 12)
    seen = set()
    while any(process.is_alive() for process in started):
        if kind == "in place":
            seen.add(_ours(directory))
        time.sleep(0.01)
    assert [process.exitcode for process in started] == [0, 0]
    assert generation_of(directory, marked=kind == "exchanged") in {111, 211}
    assert seen <= {1, *range(100, 112), *range(200, 212)}
    assert (directory / "notes.txt").read_text() == "mine"
    assert [path.name for path in directory.parent.iterdir()] == ["model"]
    assert not [name for name in tree(directory) if name.startswith(".")]


def _ours(directory: Path) -> float:
    from forgather_core.checkpoint import load_checkpoint

    model = model_of(-1)
    load_checkpoint(directory, model, strict=True)
    (value,) = {float(v) for parameter in model.parameters() for v in parameter.detach().unique()}
    return value


def test_dead_saver_blocks_no_other(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    count = 60
    first, second = processes(directory, [SHARDED, SHARDED], count)
    time.sleep(0.5)
    assert first.is_alive()
    first.kill()
    second.join(timeout=120)
    assert second.exitcode == 0
    assert generation_of(directory) == 199 + count
