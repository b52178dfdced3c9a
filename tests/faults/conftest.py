"""Fixtures: commands within limits, a process that saves, and directories in the state before a save."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.fork_server import TRANSFORMERS, ForkServer

from .commands import Commands, environment
from .scenarios import SCENARIOS, Scenario
from .server import Server, server

Restore = Callable[[str], tuple[Path, Scenario]]
ON_DISK = ("a new directory", "one bin file over sharded bin")  # the other scenarios run in memory, where fsync is fast


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Start a process in whose forks commands run; they share its cache of remote code."""
    cache = str(tmp_path_factory.mktemp("fork_server") / "hf")
    with ForkServer(environment() | {"HF_HOME": cache}, (*TRANSFORMERS, "transformers.trainer")) as running:
        yield running


@pytest.fixture(scope="session")
def forgather(fork_server: ForkServer) -> Commands:
    """Return a function that runs `forgather` within limits."""
    return Commands(fork_server)


@pytest.fixture(scope="session")
def saver() -> Iterator[Server]:
    """Start a process that saves and may be killed."""
    with server() as running:
        yield running


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """Return a directory in memory, where an fsync takes no time; tmp_path on a system without one."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK):
        with tempfile.TemporaryDirectory(dir=memory) as place:
            yield Path(place)
    else:
        yield tmp_path


@pytest.fixture(scope="session")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create the content of a directory before a save, once for each scenario."""
    place = tmp_path_factory.mktemp("states")
    for name, scenario in SCENARIOS.items():
        scenario.make(place / name)
    return place


@pytest.fixture
def restore(states: Path, tmp_path: Path, memory_path: Path) -> Restore:
    """Restore a directory, alone in its parent, to the state before the save of a scenario."""

    def make(name: str) -> tuple[Path, Scenario]:
        place = (tmp_path if name in ON_DISK else memory_path) / "place"
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
