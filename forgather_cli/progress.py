"""Progress bars on a terminal for work that takes longer than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgather_core.filesystem.printable import one_line

from .streams import print_stderr

if TYPE_CHECKING:
    from forgather import Progress as Callbacks
    from forgather_core.training_check import Step
    from forgather_core.training_run.watch import TrainingRecord

BAR_DELAY = 1.0  # seconds before a progress bar appears

ByteProgress = Callable[[int, int], None]


@contextmanager
def steps(count: int) -> Iterator[Callable[[Step], None] | None]:
    """Show a progress bar of training steps. It starts at the first step, after the bars of the construction."""
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


class TrainingProgress:
    """Report a training run on standard error: a progress bar on a terminal, lines in a pipe."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._directory: Path | None = None

    def begin(self, report: dict[str, Any]) -> None:
        """Print the predicted cost of the run, and start the progress bar."""
        from .views.train import cost_lines

        self._directory = Path(report["directory"])
        for line in cost_lines(report):
            print_stderr(line)
        if sys.stderr.isatty():
            self._bar = _training_bar()
            self._task = self._bar.add_task("", total=report["plan"]["steps"], text="")
            self._bar.start()

    def record(self, record: TrainingRecord) -> None:
        """Show the measurements of a step."""
        from .views.train import record_line

        line = record_line(record.to_dict())
        if self._bar is None:
            print_stderr(line)
        else:
            self._bar.update(self._task, completed=record.step, text=line)

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Show an evaluation."""
        losses = f"evaluation loss {metrics['loss']:.4f}, {metrics['bits_per_byte']:.4f} bits per byte"
        line = f"step {step:,}: {losses}"
        if self._bar is None:
            print_stderr(line)
        else:
            self._bar.console.print(line)  # above the bar, where it stays

    def interrupted(self) -> None:
        """Print the command that continues the run."""
        from forgather_core.checkpoint import find_latest_checkpoint

        if self._directory is None:
            return
        latest = find_latest_checkpoint(self._directory)
        if latest is None:
            note("nothing was saved: the run had no checkpoint yet (see --save-every)")
        else:
            note(f"the last checkpoint is {latest}; the same command with --resume continues from it")

    def end(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.stop()


def _training_bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .render import console

    columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[text]}"))
    return Progress(*columns, console=console(stderr=True), transient=True)


@contextmanager
def training() -> Iterator[TrainingProgress]:
    """Report the progress of a training run."""
    progress = TrainingProgress()
    try:
        yield progress
    except KeyboardInterrupt:
        progress.end()
        progress.interrupted()
        raise
    finally:
        progress.end()


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
    print_stderr(f"forgather: note: {one_line(sentence)}")


def waiting() -> None:
    """Print that another process is using the model directory."""
    print_stderr("another process holds the lock of the model directory: waiting for it")


@contextmanager
def bytes_bar(verb: str) -> Iterator[ByteProgress | None]:
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
        if self._progress is None and now - self._started > BAR_DELAY and done < total:
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
