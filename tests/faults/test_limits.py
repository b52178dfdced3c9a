"""The limits of commands: each is enforced, and new processes keep them too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.support.fork_server import ForkServer

from .commands import OUTPUT, SECONDS, Commands
from .test_corpus import SINGLE, framed, parts

pytestmark = pytest.mark.faults

LOW = 350_000_000  # a limit of memory that is soon exceeded
HOG = "kept = [bytearray(b'x' * 2**20) for _ in range(2**20)]"
PEAK = f"kept = bytearray(b'x') * {LOW}; del kept"
SLOW = "import time; time.sleep(600)"


@pytest.mark.parametrize("new", [False, True], ids=["fork", "new process"])
@pytest.mark.parametrize(
    ("program", "report"),
    [(HOG, f"more than {2 * LOW:,} bytes"), (SLOW, "more than 1 s")],
    ids=["memory", "time"],
)
def test_a_command_beyond_its_limits_is_killed(
    fork_server: ForkServer, tmp_path: Path, program: str, report: str, new: bool
) -> None:
    forgather = Commands(fork_server, seconds=SECONDS if program is HOG else 1, memory=LOW)
    with pytest.raises(pytest.fail.Exception, match=report):
        forgather.python(["-c", program], cwd=tmp_path, new=new)


@pytest.mark.parametrize("new", [False, True], ids=["fork", "new process"])
def test_a_peak_of_memory_is_reported(fork_server: ForkServer, tmp_path: Path, new: bool) -> None:
    """It is below the limit at which a command is killed, and gone when the command ends."""
    with pytest.raises(AssertionError, match=f"less than {LOW:,} bytes"):
        Commands(fork_server, memory=LOW).python(["-c", PEAK], cwd=tmp_path, new=new)


@pytest.mark.parametrize(
    ("printed", "raw"),
    [("\x1b", True), ("\r", True), ("\u202e", True), ("x" * OUTPUT, False)],
    ids=["escape", "carriage return", "direction", "length"],
)
def test_output_beyond_its_limits_is_reported(tmp_path: Path, fork_server: ForkServer, printed: str, raw: bool) -> None:
    """A program in the place of the command line: a module of the working directory is imported first."""
    (tmp_path / "forgather_cli").mkdir()
    (tmp_path / "forgather_cli" / "__init__.py").touch()
    (tmp_path / "forgather_cli" / "main.py").write_text(f"print({printed!r})")
    with pytest.raises(AssertionError):
        Commands(fork_server)("verify", cwd=tmp_path, raw=raw)


@pytest.mark.regression("H3")
@pytest.mark.parametrize("arguments", ["-t llama model --from-config . show", "verify .", "checkpoint inspect ."])
def test_a_new_process_keeps_the_limits(forgather: Commands, tmp_path: Path, arguments: str) -> None:
    """The other commands are forks, in which torch and transformers are imported already."""
    model = tmp_path / "model"
    model.mkdir()
    (model / SINGLE).write_bytes(framed(*parts({"a.weight": torch.ones(2, 3)})))
    os.mkfifo(model / "config.json")
    done = forgather(*arguments.split(), cwd=model, new=True)
    if "inspect" in arguments:
        assert (done.code, "a.weight" in done.out) == (0, True)
    else:
        assert (done.code, done.err.count("\n"), "config.json" in done.err) == (2, 1, True)
