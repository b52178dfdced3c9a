"""Fixtures: run the program and the exported models in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.support.fork_server import ForkServer

# Makes Forgather and the plugins impossible to import, as if they were not installed.
DEFINITIONS = ("causal_lm", "deepone", "llama", "mistral", "qwen3", "single_head", "smollm3")
PACKAGES = (
    "forgather",
    "forgather_core",
    "forgather_cli",
    *(f"forgather_{name}" for name in DEFINITIONS),
    "parallel_lm",
)
WITHOUT_FORGATHER = f"""
import sys
for name in {PACKAGES!r}:
    sys.modules[name] = None
"""


def sample(*names: str) -> list[ParameterSet]:
    """Return all definitions as parameters; CI tries these: a suite takes half a minute for each."""
    return [pytest.param(name, marks=() if name in names else pytest.mark.exhaustive) for name in DEFINITIONS]


SAMPLE_OF_DEFINITIONS = sample("qwen3")  # RoPE, norms of queries and keys, windows

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of all processes of a test: a separate cache, no hub."""
    return os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Return a process in whose forks the commands of all tests run; they share its cache of remote code."""
    cache = tmp_path_factory.mktemp("server") / "hf"
    with ForkServer(os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}) as started:
        yield started


@pytest.fixture
def forgather(tmp_path: Path, environment: dict[str, str], server: ForkServer) -> Run:
    """Run `forgather` with arguments in the test's directory."""

    def run(*arguments: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        command = ["-m", "forgather_cli.main", *arguments]
        done = server.run(command, cwd=tmp_path, environment=environment | more)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def python(tmp_path: Path, environment: dict[str, str], server: ForkServer) -> Run:
    """Run a Python program in the test's directory; by default without Forgather."""

    def run(program: str, *, alone: bool = True) -> subprocess.CompletedProcess[str]:
        program = (WITHOUT_FORGATHER if alone else "") + program
        done = server.run(["-c", program], cwd=tmp_path, environment=environment)
        assert done.returncode == 0, done.stderr
        return done

    return run


def run_in(
    place: Path, server: ForkServer | None = None, **environment: str
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run this Python with arguments in a directory that several tests share, on the CPU; fail if it fails.

    With a server, in a fork of it; without one, in a new process.
    """
    environment = (
        os.environ | {"HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str]
        if server is not None:
            done = server.run(arguments, cwd=place, environment=environment)
        else:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=place,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run
