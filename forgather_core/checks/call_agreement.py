"""Call agreement: every way to call a model has the results of the plain way.

The plain way is each document alone, in float32, with eager attention, in evaluation mode, without a cache. The other
ways are combinations of the levels of `covering.factors`; a covering array contains every valid pair of levels. A case
that fails is reduced to the levels that make it fail.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..definitions.check import Measured, check
from .covering.agreement import Agreement, differing
from .covering.array import covering_array
from .covering.factors import Case, case_id
from .model_under_test import ModelUnderTest


@check("call-agreement", cause="a mask, position or argument that is right in some calls only", quick=False)
def call_agreement(subject: ModelUnderTest) -> Iterator[Measured]:
    """Every pair of ways to call the model (padding, packing, cache, dtype, ...) has the results of the plain way."""
    agreement = Agreement(subject)
    causes: list[frozenset[tuple[str, str]]] = []
    for case in covering_array(agreement.levels, seed=subject.seed).cases:
        worst = max(agreement.run(case), key=_excess)
        if worst.holds:
            yield Measured(case_id(case), worst.error, worst.tolerance)
        elif any(levels <= differing(case) for levels in causes):
            yield Measured(case_id(case), worst.error, worst.tolerance, None, f"the same in {case_id(case)}")
        else:
            smallest = agreement.shrunk(case)
            causes.append(differing(smallest))
            worst = max(agreement.run(smallest), key=_excess)
            yield Measured(case_id(smallest), worst.error, worst.tolerance, worst.where, _cause(smallest, worst))


def _excess(deviation: Measured) -> float:
    """Return the error relative to the tolerance; inf if it is not a number."""
    if deviation.holds:
        return deviation.error / deviation.tolerance if deviation.tolerance else 0.0
    return max(deviation.error / deviation.tolerance, 1.0) if deviation.tolerance else float("inf")


def _cause(smallest: Case, worst: Measured) -> str:
    count = len(differing(smallest))
    without = {1: ", right without it", 2: ", right without either"}.get(count, ", right without any of them")
    call = f"wrong with {case_id(smallest).replace(',', ' + ')}{without}" if count else "wrong in the plain call"
    size = "" if worst.what.startswith("raised") else f" off by {worst.error:.2g}, tolerance {worst.tolerance:.2g}"
    return f"{call}: {worst.what}{size}"
