"""Run commands of Forgather within limits of time, memory and output, and check what they print."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.fork_server import ForkServer

SECONDS = 30
MEMORY = 1_000_000_000  # bytes, resident; a command is killed at twice as many
OUTPUT = 100_000  # bytes


@dataclass(frozen=True)
class Done:
    """A command that ended within its limits.

    Args:
        code: Exit code.
        out: Standard output.
        err: Standard error.
    """

    code: int
    out: str
    err: str

    @property
    def both(self) -> str:
        """Return standard output and standard error."""
        return self.out + self.err


def environment() -> dict[str, str]:
    """Return the environment of a command.

    It does not name sys.path, to which transformers adds the cache of remote code of the tests' own process.
    """
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


class Commands:
    """Run commands in forks of a process that has imported torch and transformers.

    Args:
        server: The process.
        seconds: The time limit of a command.
        memory: The limit of its peak resident memory in bytes.
    """

    def __init__(self, server: ForkServer, seconds: int = SECONDS, memory: int = MEMORY) -> None:
        self._server = server
        self._seconds = seconds
        self._memory = memory

    def __call__(self, *arguments: str | Path, cwd: Path, raw: bool = False, new: bool = False) -> Done:
        """Run `forgather ARGUMENTS`, and check what it prints.

        Args:
            arguments: The arguments of the command.
            cwd: Its working directory.
            raw: Accept output of any length.
            new: Run it in a new process, so that it imports everything itself.
        """
        done = self.python(["-m", "forgather_cli.main", *map(str, arguments)], cwd=cwd, new=new)
        assert "Traceback" not in done.err, done.err[-2000:]
        if not raw:
            assert len(done.out) + len(done.err) < OUTPUT
        odd = {c for c in done.both if c != "\n" and not c.isprintable()}
        assert not odd
        return done

    def python(self, arguments: Sequence[str], *, cwd: Path, new: bool = False) -> Done:
        """Run `python ARGUMENTS` within the limits, in a fork or in a new process."""
        self._server.start(
            arguments,
            cwd=cwd,
            environment=environment(),
            seconds=self._seconds,
            memory=2 * self._memory,
            new=new,
        )
        ended = self._server.wait()
        if ended.exceeded is not None:
            pytest.fail(f"{arguments}: more than {ended.exceeded}")
        assert ended.peak < self._memory, f"{arguments}: expected less than {self._memory:,} bytes, got {ended.peak:,}"
        return Done(ended.code, ended.stdout.decode(), ended.stderr.decode())
