"""Fixtures: the suite's marker, a process that saves, and directories in the state before a save."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .scenarios import SCENARIOS, Scenario
from .server import Server, server

Restore = Callable[[str], tuple[Path, Scenario]]


@pytest.fixture(scope="session")
def saver() -> Iterator[Server]:
    """Start a process that saves and may be killed."""
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create the content of a directory before a save, once for each scenario."""
    place = tmp_path_factory.mktemp("states")
    for name, scenario in SCENARIOS.items():
        scenario.make(place / name)
    return place


@pytest.fixture
def restore(states: Path, tmp_path: Path) -> Restore:
    """Restore a directory, alone in its parent, to the state before the save of a scenario."""

    def make(name: str) -> tuple[Path, Scenario]:
        place = tmp_path / "place"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if (states / name).exists():
            shutil.copytree(states / name, place / "model", symlinks=True)
        return place / "model", SCENARIOS[name]

    return make


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    """Disable the progress bar that transformers shows at each load."""
    import transformers

    transformers.utils.logging.disable_progress_bar()


@contextmanager
def file_system(place: Path, size: str) -> Iterator[None]:
    """Mount a new file system of a size, or skip the test without the privileges to mount."""
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size={size} tmpfs {place} 2>/dev/null") != 0:
        pytest.skip("mounting a small file system needs privileges")
    try:
        yield
    finally:
        os.system(f"umount -l {place}")
