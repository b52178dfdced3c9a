"""The cases that a run requests, and their results as plain data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ...definitions.check import DoesNotApply
from ...errors import CheckError
from .agreement import Agreement
from .array import CoveringArray, covering_array
from .factors import case_id, case_of, differing
from .failures import Failure
from .rules import RULES, Rule, violated
from .usual import usual_cases


def requested_array(agreement: Agreement) -> CoveringArray:
    """Return the cases: those of a covering array, or the requested one."""
    scope, levels = agreement.subject.scope, agreement.levels
    if scope.case is None:
        array = covering_array(levels, strength=scope.strength, seed=agreement.subject.seed, rules=agreement.rules)
        more = tuple(case for case in usual_cases(levels, agreement.rules) if case not in array.cases)
        return replace(array, cases=array.cases + more)
    case = requested_case(scope.case, agreement.rules)
    for level in sorted(f"{name}={level}" for name, level in differing(case)):
        if level in agreement.inapplicable:
            raise DoesNotApply(f"{level}: {agreement.inapplicable[level]}")
    return CoveringArray((case,), combinations=0, excluded=0, strength=0)


def requested_case(text: str, rules: Collection[Rule] = RULES) -> dict[str, str]:
    """Parse the id of a case.

    Args:
        text: The id, as a report prints it.
        rules: The conditions that it satisfies.

    Raises:
        CheckError: A factor or level does not exist, or the combination is not valid.
    """
    try:
        case = case_of(text)
    except ValueError as error:
        raise CheckError(str(error), option="--case", hint="copy the id from a report of verify") from None
    if (rule := violated(case, rules)) is not None:
        names = ", ".join(f"{name}={case[name]}" for name in rule.factors)
        raise CheckError(f"{names}: {rule.reason}", option="--case", hint="change one of these levels")
    return case


def details_of(agreement: Agreement, array: CoveringArray, failures: list[Failure]) -> dict[str, object]:
    """Return the levels, the combinations and the result of each case, as plain data."""
    causes = {name: case_id(failure.smallest) for failure in failures for name in failure.cases}
    ids = [case_id(case) for case in array.cases]
    return {
        "strength": array.strength,
        "combinations": array.combinations,
        "levels": {name: list(levels) for name, levels in agreement.levels.items()},
        "inapplicable": agreement.inapplicable,
        "cases": [{"case": name, "holds": name not in causes, "cause": causes.get(name)} for name in ids],
    }
