"""Call agreement: every way to call a model gives the same results as the plain call.

The plain call has one document alone, in float32, with eager attention, in evaluation mode, without a cache. The other
calls are combinations of the levels of `covering.factors`. A covering array contains every valid pair of levels. A case
that fails is reduced to the levels that make it fail, and cases that fail for the same reason are grouped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from ..definitions.check import Details, DoesNotApply, Measured, check
from ..errors import CheckError
from .covering.agreement import Agreement
from .covering.array import CoveringArray, covering_array
from .covering.calls import Calls
from .covering.factors import case_id, case_of, differing
from .covering.failures import Failure, measured_cases
from .covering.rules import RULES, Rule, violated
from .covering.usual import usual_cases
from .shared.model_under_test import ModelUnderTest


@check("call-agreement", cause="a mask, position or argument that is correct in some calls only")
def call_agreement(subject: ModelUnderTest) -> Iterator[Measured | Details]:
    """Every pair of ways to call a model (padding, packing, cache, dtype, ...) gives the results of the plain call."""
    with Calls(subject) as calls:
        array = _array(calls.agreement)
        failures = calls.failures(array.cases)
        yield from measured_cases(array.cases, calls.worst_of, failures)
        yield Details(_details(calls.agreement, array, failures))


def _array(agreement: Agreement) -> CoveringArray:
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


def _details(agreement: Agreement, array: CoveringArray, failures: list[Failure]) -> dict[str, object]:
    causes = {name: case_id(failure.smallest) for failure in failures for name in failure.cases}
    ids = [case_id(case) for case in array.cases]
    return {
        "strength": array.strength,
        "combinations": array.combinations,
        "levels": {name: list(levels) for name, levels in agreement.levels.items()},
        "inapplicable": agreement.inapplicable,
        "cases": [{"case": name, "holds": name not in causes, "cause": causes.get(name)} for name in ids],
    }
