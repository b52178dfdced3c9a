"""Stop a process, or fail a call of it, at the n-th thing that it does to the file system."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from forgather_core.filesystem import atomic as files

CALLS = ("write", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "link")


class Steps:
    """Counts what is done to the file system, and acts before the n-th.

    Args:
        at: The number of the step, from 1.
        act: What happens then; it may kill the process, or raise.
        only: The calls that count.
    """

    def __init__(self, at: int, act: Callable[[], None], only: tuple[str, ...] = (*CALLS, "exchange")) -> None:
        self.at = at
        self.act = act
        self.only = only
        self.count = 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **more: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                if function is _WRITE and len(arguments[1]) > 1:
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2])  # torn in the middle
                self.act()
            return function(*arguments, **more)

        return step

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count within the block."""
        patches = [mock.patch.object(os, n, self.wrap(getattr(os, n))) for n in CALLS if n in self.only]
        if "exchange" in self.only:
            patches.append(mock.patch.object(files, "_exchange", self.wrap(files._exchange)))
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()


_WRITE = os.write


def die() -> None:
    """As by the power switch: nothing of this process runs any more."""
    os.kill(os.getpid(), signal.SIGKILL)
