"""Several processes save into one directory, and others read: never a mix, always one whole save."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .models import generation_of, model_of, tree
from .scenarios import SHARDED

pytestmark = pytest.mark.faults

SAVER = """
import sys
from pathlib import Path
from tests.faults.models import save
first, count, how = int(sys.argv[2]), int(sys.argv[3]), eval(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
for generation in range(first, first + count):
    save(Path(sys.argv[1]), generation, **how)
"""


def processes(directory: Path, hows: list[dict[str, Any]], count: int) -> list[subprocess.Popen[str]]:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SAVER, str(directory), str(100 * (number + 1)), str(count), repr(how)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        for number, how in enumerate(hows)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
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
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    seen = set()
    while any(process.poll() is None for process in started):
        if kind == "in place":
            seen.add(_ours(directory))
        time.sleep(0.01)
    assert [process.returncode for process in started] == [0, 0]
    assert generation_of(directory, marked=kind == "exchanged") in {111, 211}
    assert seen <= {1, *range(100, 112), *range(200, 212)}
    assert (directory / "notes.txt").read_text() == "mine"
    assert [path.name for path in directory.parent.iterdir()] == ["model"]
    assert not [name for name in tree(directory) if name.startswith(".")]
    for process in started:
        process.communicate()


def _ours(directory: Path) -> float:
    from forgather_core.checkpoint import load_checkpoint

    model = model_of(-1)
    load_checkpoint(directory, model, strict=True)
    (value,) = {float(v) for parameter in model.parameters() for v in parameter.detach().unique()}
    return value


def test_dead_saver_blocks_no_other(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    first, second = processes(directory, [SHARDED, SHARDED], 200)
    for process in (first, second):
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    time.sleep(0.5)
    first.kill()
    assert second.wait(timeout=120) == 0
    assert generation_of(directory) == 399
    for process in (first, second):
        process.communicate()
