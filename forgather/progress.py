"""Callbacks that report the progress of a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .public import strict

if TYPE_CHECKING:
    from forgather_core.training_check import Step
    from forgather_core.training_run.watch import TrainingRecord

    from .results import Result

__all__ = ["Progress"]

ByteProgress = Callable[[int, int], None]


@strict
@dataclass(frozen=True, kw_only=True)
class Progress:
    """Callbacks for the progress of a call; each is optional. Without them, functions print nothing.

    Args:
        waiting: Called once if another process holds the lock of the model directory.
        verifying: Called with the bytes of a checkpoint verified so far, and the total.
        loading: Called with the bytes of a checkpoint loaded so far, and the total.
        saving: Called with the bytes of a checkpoint saved so far, and the total.
        step: Called after each training step of `test`.
        begin: Called with the report of a training run before its first step: plan, data and cost.
        record: Called with the measurements of a training run at each logged step.
        evaluation: Called with the step number and the metrics of each evaluation of a training run.
        item: Called with the name of each check or part of an estimate before it runs, at the end with that of a check
            that still runs, or with the number of documents read.
        note: Called with a sentence about omitted results, such as the checks of a broken plugin.
        partial: Called with the results so far if an exception ends the call early; the exception propagates.
    """

    waiting: Callable[[], None] | None = None
    verifying: ByteProgress | None = None
    loading: ByteProgress | None = None
    saving: ByteProgress | None = None
    step: Callable[[Step], None] | None = None
    begin: Callable[[dict[str, Any]], None] | None = None
    record: Callable[[TrainingRecord], None] | None = None
    evaluation: Callable[[int, dict[str, float]], None] | None = None
    item: Callable[[str], None] | None = None
    note: Callable[[str], None] | None = None
    partial: Callable[[Any], None] | None = None


SILENT = Progress()


def partial_of(progress: Progress, kind: type[Result]) -> Callable[[dict[str, Any]], None] | None:
    """Return a function that passes a partial report to the callback `partial` as a result; None without callback."""
    on_partial = progress.partial
    return None if on_partial is None else lambda report: on_partial(kind(report))
