"""Failed cases, grouped by the levels that cause them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from ...definitions.check import Measured
from .factors import FACTORS, NAMES, Case, case_id, differing
from .rules import RULES, Rule, violated

_WITHOUT = {1: "right without it", 2: "right without either"}


@dataclass
class Failure:
    """Levels of some factors that fail, and the cases that contain them.

    Args:
        smallest: The case with the levels whose deviation is largest; the others are plain.
        required: The factors of levels that the others require: without them, the case has no meaning.
        worst: Its largest deviation from the plain call.
        cases: The ids of the cases of the array that contain these levels.
        other_smallest: The smallest cases with other levels of the same factors.
    """

    smallest: Case
    required: frozenset[str]
    worst: Measured
    cases: list[str]
    other_smallest: list[Case] = field(default_factory=list)

    @property
    def factors(self) -> frozenset[str]:
        """The factors whose levels cause the failure."""
        names = frozenset(name for name, _ in differing(self.smallest))
        return names - self.required or names

    @property
    def text(self) -> str:
        """The levels, the deviation, and where to look, as one line."""
        names = {name for name, _ in differing(self.smallest)}
        causes = [self._levels(name) for name in NAMES if name in self.factors]
        others = [self._levels(name) for name in NAMES if name in names - self.factors]
        call = "wrong in the plain call"
        if causes:
            without = _WITHOUT.get(len(causes), "right without any of them")
            call = f"wrong with {' + '.join(causes)}, {without}"
            call += f" ({', '.join(others)} required)" if others else ""
        count = f" ({len(self.cases)} cases)" if len(self.cases) > 1 else ""
        hints = [factor.look_at for factor in FACTORS if factor.name in names]
        look = f"; look at: {'; '.join(hints)}" if hints else ""
        return f"{call}: {deviation_text(self.worst)}{count}{look}"

    def _levels(self, name: str) -> str:
        """Return the levels of a factor that fail, as "chunks=single or uneven"."""
        found = {one[name] for one in (self.smallest, *self.other_smallest) if (name, one[name]) in differing(one)}
        *most, last = (level for level in next(one.levels for one in FACTORS if one.name == name) if level in found)
        return f"{name}={', '.join(most)} or {last}" if most else f"{name}={last}"


def failures_of(
    cases: Iterable[Case], worst_of: Callable[[Case], Measured], base: Case, rules: Collection[Rule] = RULES
) -> list[Failure]:
    """Return the failures among cases, the worst first.

    A case that contains a known failure may have a second one, so it is run again without levels of the known one.

    Args:
        cases: The cases.
        worst_of: Returns the largest deviation of a case.
        base: The plain case of the model.
        rules: The conditions that every case satisfies.
    """
    failures: list[Failure] = []
    failed = [case for case in cases if not worst_of(case).holds]
    for case in sorted(failed, key=lambda case: len(differing(case))):
        left: Case | None = case
        while left is not None:
            levels = differing(left)
            known = next((one for one in failures if differing(one.smallest) <= levels), None)
            if known is None:
                smallest = shrunk(left, worst_of, base, rules)
                known = Failure(smallest, _required(smallest, base, rules), worst_of(smallest), [])
                failures.append(known)
            known.cases.append(case_id(case))
            left = next(_failing_without(left, known.smallest, worst_of, base, rules), None)
    return _grouped(sorted(failures, key=lambda one: (-excess(one.worst), -len(one.cases))))


def _grouped(failures: Iterable[Failure]) -> list[Failure]:
    """Join failures of the same results by different levels of one factor."""
    groups: dict[tuple[frozenset[str] | str, str], Failure] = {}
    for one in failures:
        key = one.factors if len(one.factors) == 1 else case_id(one.smallest), one.worst.what
        if key in groups:
            group = groups[key]
            group.other_smallest.append(one.smallest)
            group.cases += [case for case in one.cases if case not in group.cases]
        else:
            groups[key] = replace(one, cases=list(one.cases))
    return list(groups.values())


def shrunk(case: Case, worst_of: Callable[[Case], Measured], base: Case, rules: Collection[Rule] = RULES) -> Case:
    """Return a case with as few levels that are not plain as possible that still fails.

    Args:
        case: A case that fails.
        worst_of: Returns the largest deviation of a case.
        base: The plain case of the model.
        rules: The conditions that every case satisfies.
    """
    while (simpler := next(_failing_without(case, case, worst_of, base, rules), None)) is not None:
        case = simpler
    return case


def _failing_without(
    case: Case, levels: Case, worst_of: Callable[[Case], Measured], base: Case, rules: Collection[Rule]
) -> Iterator[Case]:
    """Yield the failing cases in which one of these levels is replaced by the plain one."""
    for name in reversed(NAMES):
        if levels[name] != base[name] and case[name] != base[name]:
            simpler = {**case, name: base[name]}
            if violated(simpler, rules) is None and not worst_of(simpler).holds:
                yield simpler


def _required(smallest: Case, base: Case, rules: Collection[Rule]) -> frozenset[str]:
    """Return the factors whose levels cannot be plain because of the others."""
    changed = (name for name in NAMES if smallest[name] != base[name])
    return frozenset(name for name in changed if violated({**smallest, name: base[name]}, rules) is not None)


def deviation_text(deviation: Measured) -> str:
    """Return the size of a deviation, as "logits off by 4.2, tolerance 8.3e-05"."""
    if not math.isfinite(deviation.error):
        return deviation.what
    return f"{deviation.what} off by {deviation.error:.2g}, tolerance {deviation.tolerance:.2g}"


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
            cause = case_id(found.smallest) if found else None
            same = f"{name}: same cause as {cause}" if found else None
            yield Measured(name, worst.error, worst.tolerance, None, same, cause)
