"""The program and the exported models, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# A process in which Forgather and the plugins cannot be imported, as if they were not installed.
DEFINITIONS = ("causal_lm", "deepone", "llama", "mistral", "qwen3", "single_head")
OURS = ("forgather", "forgather_core", "forgather_cli", *(f"forgather_{name}" for name in DEFINITIONS), "parallel_lm")
WITHOUT_FORGATHER = f"""
import sys
for name in {OURS!r}:
    sys.modules[name] = None
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of all processes of a test: a cache of their own, no hub."""
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
