"""Fixtures: run the program and the exported models in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Makes Forgather and the plugins impossible to import, as if they were not installed.
DEFINITIONS = ("causal_lm", "deepone", "llama", "mistral", "qwen3", "single_head")
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

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of all processes of a test: a separate cache, no hub."""
    return os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}


@pytest.fixture
def forgather(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Run `forgather` with arguments in the test's directory."""

    def run(*arguments: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "forgather_cli.main", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment | more, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def python(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Run a Python program in the test's directory; by default without Forgather."""

    def run(program: str, *, alone: bool = True) -> subprocess.CompletedProcess[str]:
        program = (WITHOUT_FORGATHER if alone else "") + program
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


def run_in(place: Path, **environment: str) -> Callable[..., None]:
    """Run this Python with arguments in a directory that several tests share, on the CPU; fail if it fails."""
    environment = (
        os.environ | {"HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
    )

    def run(*arguments: str) -> None:
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

    return run
