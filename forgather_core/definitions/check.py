"""The contract of a check: a promise of a causal language model, and a function that measures whether it holds."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..deprecated import keep_old_names
from ..reference import DoesNotApply

if TYPE_CHECKING:
    from ..checks.shared.model_under_test import ModelUnderTest

__all__ = ["Check", "Details", "DoesNotApply", "Measured", "check", "expect", "failure_text", "shown_failures"]

OLD_NAMES = {"must": "expect", "told": "failure_text"}
keep_old_names(__name__, OLD_NAMES)


@dataclass(frozen=True)
class Measured:
    """The result of one case of a check.

    Args:
        what: The case, in a few words: "dynamic cache, one token at a time".
        error: The measured error; NaN and infinity fail.
        tolerance: The largest allowed error, derived from a dtype and a size; 0 requires equality.
        where: Location of the error: module, layer, position. Reported only if the case fails.
        failure: The statement to report if the case fails; None builds one from `what` and the error.
        explained_by: The case whose failure explains that of this one; reports show that one only.
    """

    what: str
    error: float
    tolerance: float = 0.0
    where: str | None = None
    failure: str | None = None
    explained_by: str | None = None

    @property
    def holds(self) -> bool:
        """Return whether the error is finite and within the tolerance."""
        return math.isfinite(self.error) and self.error <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data; `where`, `failure` and `explained_by` are None if the case holds."""
        return {
            "what": self.what,
            "error": self.error,
            "tolerance": self.tolerance,
            "holds": self.holds,
            "where": None if self.holds else self.where,
            "failure": None if self.holds else self.failure,
            "explained_by": None if self.holds else self.explained_by,
        }


@dataclass(frozen=True)
class Details:
    """Facts about a run of a check that belong to its report.

    Args:
        content: Plain data; it is added to `details` of the check's row.
    """

    content: Mapping[str, Any]


def shown_failures(measured: Sequence[Mapping[str, Any]], limit: int) -> tuple[list[str], int]:
    """Return the failures of a check to show, one line each, and the number of the others.

    Cases whose failure another one explains are neither shown nor counted.

    Args:
        measured: The results of `Measured.as_dict()`.
        limit: The largest number of lines.
    """
    failed = [case for case in measured if not case["holds"] and case.get("explained_by") is None]
    return [failure_text(case) for case in failed[:limit]], max(len(failed) - limit, 0)


def failure_text(case: Mapping[str, Any]) -> str:
    """Format a failed case as one line.

    Args:
        case: The result of `Measured.as_dict()`.
    """
    where = f", at {case['where']}" if case["where"] else ""
    if case.get("failure"):
        return f"{case['failure']}{where}"
    if case["tolerance"] == 0 and case["error"] == 1:
        return f"{case['what']}: failed{where}"
    allowed = f", tolerance {_short(case['tolerance'])}" if case["tolerance"] else ""
    return f"{case['what']}: off by {_short(case['error'])}{allowed}{where}"


def _short(number: float | str) -> str:
    return number if isinstance(number, str) else f"{number:.2g}"  # JSON has NaN and infinity as text


def expect(what: str, holds: bool, where: str | None = None, *, failure: str | None = None) -> Measured:
    """Return the result of a case that is either true or false.

    Args:
        what: The statement that must be true.
        holds: Whether the statement is true.
        where: Location of the failure: module, layer, position.
        failure: The statement to report on failure; None reports `what` as failed.
    """
    return Measured(what, 0.0 if holds else 1.0, 0.0, where, failure)


CheckFunction = Callable[["ModelUnderTest"], Iterator[Measured | Details]]


@dataclass(frozen=True)
class Check:
    """A promise of a model, and the function that checks it.

    Args:
        name: The name for `--checks`.
        promise: The promise, in one sentence.
        cause: The usual cause of a failure.
        quick: Whether `--quick` includes the check.
        run: Yields the measured cases, and details. A check without cases does not count as passed.
    """

    name: str
    promise: str
    cause: str
    quick: bool
    run: CheckFunction


def check(name: str, *, cause: str, quick: bool = True) -> Callable[[CheckFunction], Check]:
    """Turn a function into a check; the first paragraph of its docstring is the promise.

    Args:
        name: The name for `--checks`: words joined by hyphens.
        cause: The usual cause of a failure.
        quick: Whether `--quick` includes the check: it takes less than two seconds.

    Example:
        >>> @check("finite", cause="an initialization that explodes")
        ... def finite(subject):
        ...     \"\"\"Logits are finite.\"\"\"
        ...     logits = subject.randomized_model()(subject.tokens(2, 8)).logits
        ...     yield expect("random tokens", bool(logits.isfinite().all()))
        >>> finite.promise
        'Logits are finite.'
    """

    def make(run: CheckFunction) -> Check:
        promise = (inspect.getdoc(run) or "").partition("\n\n")[0].replace("\n", " ")
        return Check(name, promise, cause, quick, run)

    return make
