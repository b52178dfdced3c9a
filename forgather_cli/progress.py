"""Progress bars on a terminal for work that takes longer than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from forgather_core.filesystem.printable import one_line

from .streams import say

if TYPE_CHECKING:
    from forgather import Progress as Callbacks
    from forgather_core.training_check import Step

PATIENCE = 1.0  # seconds before a bar is drawn

Bytes = Callable[[int, int], None]


@contextmanager
def steps(count: int) -> Iterator[Callable[[Step], None] | None]:
    """Show a progress bar of training steps, from the first one on: the bars of the construction come before it."""
    if not sys.stderr.isatty() or count == 1:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .render import console

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"), TimeRemainingColumn())
    progress = Progress(*columns, console=console(stderr=True), transient=True)
    task = progress.add_task("", total=count, loss="")

    def update(step: Step) -> None:
        progress.start()
        progress.update(task, completed=step.step, loss=f"{step.loss:.4f}")

    try:
        yield update
    finally:
        progress.stop()


@contextmanager
def spinner() -> Iterator[Callable[[str], None] | None]:
    """Show a spinner with the current item."""
    if not sys.stderr.isatty():
        yield None
        return
    from .render import Text, console

    with console(stderr=True).status("") as status:
        yield lambda text: status.update(Text(text))


@contextmanager
def construction() -> Iterator[Callbacks]:
    """Report the progress of `construct`: waiting for a lock, and bytes verified, loaded and saved."""
    from forgather import Progress

    with ExitStack() as stack:
        verifying, loading, saving = (
            stack.enter_context(bytes_bar(verb)) for verb in ("verifying", "loading", "saving")
        )
        yield Progress(waiting=waiting, verifying=verifying, loading=loading, saving=saving)


def note(sentence: str) -> None:
    """Print a note on standard error."""
    say(f"forgather: note: {one_line(sentence)}")


def waiting() -> None:
    """Print that another process is using the model directory."""
    say("another process holds the model directory: waiting for it")


@contextmanager
def bytes_bar(verb: str) -> Iterator[Bytes | None]:
    """Show a progress bar of bytes with their throughput, after one second."""
    if not sys.stderr.isatty():
        yield None
        return
    with ExitStack() as stack:
        yield _Bar(verb, stack)


class _Bar:
    def __init__(self, verb: str, stack: ExitStack) -> None:
        self._verb = verb
        self._stack = stack
        self._started: float | None = None
        self._progress: Any = None
        self._task: Any = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._started = self._started or now
        if self._progress is None and now - self._started > PATIENCE and done < total:
            self._progress = self._stack.enter_context(self._draw())
            self._task = self._progress.add_task(self._verb, total=total)
        if self._progress is not None:
            self._progress.update(self._task, completed=done)
            if done >= total:
                self._progress.stop()

    def _draw(self) -> Any:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        from .render import console

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        return Progress(*columns, console=console(stderr=True), transient=True)
