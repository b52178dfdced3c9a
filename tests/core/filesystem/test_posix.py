"""Windows, as far as it can be imitated here: no fcntl, no resource, none of the flags and calls of POSIX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Here the libraries need what this system has, so they are imported first.
LIBRARIES = "import datasets, torch, transformers.generation.utils, transformers.masking_utils"
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


def run(text: str, *arguments: str, place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text, *arguments], cwd=place, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.regression("windows")
def test_every_module_imports_without_posix(tmp_path: Path) -> None:
    ran = run(LIBRARIES + WITHOUT_POSIX + IMPORT_ALL, place=tmp_path)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.regression("windows")
def test_what_needs_no_posix_works_without_it(tmp_path: Path) -> None:
    ran = run(WITHOUT_POSIX + PROGRAM, "-t", "llama/4M", "model", "show", place=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "hidden_size" in ran.stdout


@pytest.mark.slow
@pytest.mark.regression("windows")
def test_what_needs_posix_is_refused_in_a_line(tmp_path: Path) -> None:
    ran = run(LIBRARIES + WITHOUT_POSIX + PROGRAM, "-t", "llama/4M", "model", "construct", place=tmp_path)
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("forgather: error: ")
    assert "not supported on Windows" in ran.stderr
    assert ran.stderr.count("\n") == 1, ran.stderr
