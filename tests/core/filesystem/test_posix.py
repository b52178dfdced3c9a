"""Imitate Windows: no fcntl, no resource, and none of the flags and calls of POSIX."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fork_server import ForkServer

# Here the libraries need what this system has, so they are imported first.
LIBRARIES = ("datasets", "torch", "transformers.generation.utils", "transformers.masking_utils")
WITHOUT_POSIX = """
import os, sys
sys.modules["fcntl"] = sys.modules["resource"] = sys.modules["pwd"] = sys.modules["termios"] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_DIRECTORY", "preadv", "pwritev", "setxattr",
             "getxattr", "posix_fadvise", "posix_fallocate", "getuid", "chown", "statvfs", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
"""
IMPORT_ALL = """
import importlib, pkgutil
for root in ("forgather_core", "forgather_cli", "forgather"):
    package = importlib.import_module(root)
    for module in pkgutil.walk_packages(package.__path__, root + "."):
        if "scaffold." not in module.name and not module.name.endswith(("alibi_flash", "__main__")):
            importlib.import_module(module.name)
"""
PROGRAM = "sys.argv = ['forgather', *sys.argv[1:]]; from forgather_cli.main import main; main()"


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """Return a process that has imported the libraries."""
    with ForkServer(os.environ, LIBRARIES) as started:
        yield started


def run(text: str, *arguments: str, place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text, *arguments], cwd=place, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.regression("windows")
def test_every_module_imports_without_posix(tmp_path: Path, server: ForkServer) -> None:
    ran = server.run(("-c", WITHOUT_POSIX + IMPORT_ALL), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.regression("windows")
def test_commands_without_posix_requirements_work(tmp_path: Path) -> None:
    ran = run(WITHOUT_POSIX + PROGRAM, "-t", "llama/4M", "model", "show", place=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "hidden_size" in ran.stdout


@pytest.mark.slow
@pytest.mark.regression("windows")
def test_commands_that_require_posix_are_refused_in_one_line(tmp_path: Path, server: ForkServer) -> None:
    ran = server.run(("-c", WITHOUT_POSIX + PROGRAM, "-t", "llama/4M", "model", "construct"), cwd=tmp_path)
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("forgather: error: ")
    assert "not supported on Windows" in ran.stderr
    assert ran.stderr.count("\n") == 1, ran.stderr
