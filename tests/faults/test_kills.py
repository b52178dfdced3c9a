"""A save killed at any instant leaves the old or the new checkpoint, and the next save removes its leftovers.

The long run, 200 kills at random moments of a larger save: pytest -m faults
"""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from .conftest import Restore
from .models import generation_of, save, tree
from .scenarios import FOREIGN, LATER, NEW, SCENARIOS, SHARDED, Scenario
from .server import Server

pytestmark = pytest.mark.faults


def check(directory: Path, scenario: Scenario, *, acknowledged: bool = False) -> int | None:
    """Return the loaded content of the directory; then a later save must succeed and leave only its own files."""
    found = generation_of(directory, marked=scenario.marked)
    assert found in ({NEW} if acknowledged else {scenario.old, NEW})
    if scenario.old is not None:
        assert all((directory / name).read_text() == "mine" for name in FOREIGN)
    save(directory, LATER, **scenario.how)
    assert generation_of(directory, marked=scenario.marked) == LATER
    foreign = {*FOREIGN, "runs"} if scenario.old is not None else set()
    generations = {name.replace("-2-", "-").replace("-3-", "-") for name in tree(directory)}
    assert generations == clean_tree(json.dumps(scenario.how)) | foreign
    assert [path.name for path in directory.parent.iterdir()] == ["model"]
    return found


@cache
def clean_tree(how: str) -> set[str]:
    """Return the files that a save creates in a new directory; its arguments are JSON."""
    with tempfile.TemporaryDirectory() as place:
        save(Path(place) / "model", LATER, **json.loads(how))
        return tree(Path(place) / "model")


@pytest.mark.few(5)
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_before_every_step(restore: Restore, saver: Server, name: str) -> None:
    found = []
    for step in range(1, 1000):
        directory, scenario = restore(name)
        state = saver.save(directory, NEW, scenario.how, kill_at=step)
        assert state in {"ok", "killed"}
        found.append(check(directory, scenario, acknowledged=state == "ok"))
        if state == "ok":
            break
    assert step > 20
    assert found[0] == scenario.old
    first_new = found.index(NEW)
    assert set(found[first_new:]) == {NEW}, "once it is the new one, it stays the new one"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_killed_at_random_moments(restore: Restore, saver: Server, number: int) -> None:
    """Twenty kills distributed over a longer save."""
    chance = random.Random(number)
    name = list(SCENARIOS)[number % len(SCENARIOS)]
    directory, scenario = restore(name)
    how = scenario.how | {"max_shard_size": 4_000}
    scenario = Scenario(scenario.before, how, scenario.old)
    durations = []
    for _ in range(3):
        directory, _ = restore(name)
        began = time.monotonic()
        assert saver.save(directory, NEW, how) == "ok"
        durations.append(time.monotonic() - began)
    duration = min(durations)
    killed = 0
    for _ in range(200):
        if killed == 20:
            break
        directory, _ = restore(name)
        pid = saver.start(directory, NEW, how)
        time.sleep(chance.uniform(0, duration))
        with suppress(ProcessLookupError):  # it has ended already
            os.kill(pid, signal.SIGKILL)
        killed += saver.finish() == "killed"
        check(directory, scenario)
    assert killed == 20


def test_killed_twice(restore: Restore, saver: Server) -> None:
    """The second process dies with the leftovers of the first one present."""
    for first in (9, 17, 26, 33):
        for second in range(2, 40, 3):
            directory, scenario = restore("safetensors over bin")
            saver.save(directory, NEW, SHARDED, kill_at=first)
            saver.save(directory, NEW, SHARDED, kill_at=second)
            check(directory, scenario)
