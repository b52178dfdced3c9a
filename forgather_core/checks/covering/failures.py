"""Failed cases, grouped by the levels that cause them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ...definitions.check import Measured
from .factors import FACTORS, Case, case_id, differing

_WITHOUT = {1: "right without it", 2: "right without either"}


@dataclass
class Failure:
    """A set of levels that fails, and the cases that contain it.

    Args:
        smallest: The case with these levels only; the others are plain.
        worst: Its largest deviation from the plain way.
        cases: The ids of the cases of the array that contain it.
    """

    smallest: Case
    worst: Measured
    cases: list[str]

    @property
    def text(self) -> str:
        """The levels, the deviation, and where to look, as one line."""
        levels = differing(self.smallest)
        call = "wrong in the plain call"
        if levels:
            without = _WITHOUT.get(len(levels), "right without any of them")
            call = f"wrong with {case_id(self.smallest).replace(',', ' + ')}, {without}"
        worst = self.worst
        size = f" off by {worst.error:.2g}, tolerance {worst.tolerance:.2g}" if math.isfinite(worst.error) else ""
        count = f" ({len(self.cases)} cases)" if len(self.cases) > 1 else ""
        names = {name for name, _ in levels}
        hints = [factor.look_at for factor in FACTORS if factor.name in names]
        look = f"; look at: {'; '.join(hints)}" if hints else ""
        return f"{call}: {worst.what}{size}{count}{look}"


def failures_of(
    cases: Iterable[Case],
    worst_of: Callable[[Case], Measured],
    shrunk: Callable[[Case], Case],
) -> list[Failure]:
    """Return the failures among cases, the worst first.

    Args:
        cases: The cases.
        worst_of: Returns the largest deviation of a case.
        shrunk: Returns the smallest case that fails like a failed one.
    """
    failures: list[Failure] = []
    failed = [case for case in cases if not worst_of(case).holds]
    for case in sorted(failed, key=lambda case: len(differing(case))):
        known = next((one for one in failures if differing(one.smallest) <= differing(case)), None)
        if known is None:
            smallest = shrunk(case)
            known = Failure(smallest, worst_of(smallest), [])
            failures.append(known)
        known.cases.append(case_id(case))
    return sorted(failures, key=lambda one: (-excess(one.worst), -len(one.cases)))


def excess(deviation: Measured) -> float:
    """Return the error relative to the tolerance: more than 1 if it fails, inf if it is not a number."""
    if deviation.holds:
        return deviation.error / deviation.tolerance if deviation.tolerance else 0.0
    if not math.isfinite(deviation.error) or not deviation.tolerance:
        return math.inf
    return deviation.error / deviation.tolerance


def measured_cases(
    cases: Iterable[Case], worst_of: Callable[[Case], Measured], failures: Iterable[Failure]
) -> Iterator[Measured]:
    """Yield one result for each failure, then one for each other case."""
    causes: dict[str, Failure] = {}
    for failure in failures:
        worst = failure.worst
        yield Measured(case_id(failure.smallest), worst.error, worst.tolerance, worst.where, failure.text)
        causes |= dict.fromkeys(failure.cases, failure)
    for case in cases:
        name = case_id(case)
        worst = worst_of(case)
        found = causes.get(name)
        if found is None or name != case_id(found.smallest):
            same = f"the same in {name}" if found else None
            yield Measured(name, worst.error, worst.tolerance, None, same)
