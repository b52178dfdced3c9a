"""What a check is: a promise of a causal language model, and a way to try it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..reference import DoesNotApply

if TYPE_CHECKING:
    from ..checks.subject import ModelUnderTest

__all__ = ["Check", "DoesNotApply", "Measured", "check", "expect", "failure_text"]


@dataclass(frozen=True)
class Measured:
    """One thing that was tried.

    Args:
        what: The case, in a few words: "dynamic cache, a token at a time".
        error: What was measured; NaN and infinity fail.
        tolerance: What it may be at most. It is derived from a dtype and a size, or 0 where equality is promised.
        where: Where the error is: module, layer, position. Told of what failed only.
    """

    what: str
    error: float
    tolerance: float = 0.0
    where: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the promise is kept. NaN and infinity are never within a tolerance."""
        return math.isfinite(self.error) and self.error <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "what": self.what,
            "error": self.error,
            "tolerance": self.tolerance,
            "holds": self.holds,
            "where": None if self.holds else self.where,
        }


def failure_text(one: Mapping[str, Any]) -> str:
    """What a case that failed says, in a line.

    Args:
        one: From `Measured.as_dict`.
    """
    where = f", at {one['where']}" if one["where"] else ""
    if one["tolerance"] == 0 and one["error"] == 1:
        return f"{one['what']}: not so{where}"
    allowed = f", allowed {one['tolerance']:.2g}" if one["tolerance"] else ""
    return f"{one['what']}: off by {one['error']:.2g}{allowed}{where}"


def expect(what: str, holds: bool, where: str | None = None) -> Measured:
    """Something that is so or is not."""
    return Measured(what, 0.0 if holds else 1.0, 0.0, where)


Try = Callable[["ModelUnderTest"], Iterator[Measured]]


@dataclass(frozen=True)
class Check:
    """A promise and how it is tried.

    Args:
        name: For `--check`.
        promise: What is proved, in a sentence.
        cause: What is usually wrong where it fails.
        quick: Whether `--quick` tries it too.
        run: Tries it, and yields what it measures. A check that yields nothing does not count as passed.
    """

    name: str
    promise: str
    cause: str
    quick: bool
    run: Try


def check(name: str, *, cause: str, quick: bool = True) -> Callable[[Try], Check]:
    """Make a check of a function; the first sentence of its docstring is the promise.

    Args:
        name: For `--check`: words joined by hyphens.
        cause: What is usually wrong where it fails.
        quick: Whether `--quick` tries it too: it takes less than two seconds.

    Example:
        >>> @check("finite", cause="an initialisation that explodes")
        ... def finite(subject):
        ...     \"\"\"Logits are finite.\"\"\"
        ...     logits = subject.model()(subject.tokens(2, 8)).logits
        ...     yield must("random tokens", bool(logits.isfinite().all()))
        >>> finite.promise
        'Logits are finite.'
    """

    def make(run: Try) -> Check:
        promise = (inspect.getdoc(run) or "").partition("\n\n")[0].replace("\n", " ")
        return Check(name, promise, cause, quick, run)

    return make
