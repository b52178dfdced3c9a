"""Call agreement: every way to call a model has the results of the plain way.

The plain way is each document alone, in float32, with eager attention, in evaluation mode, without a cache. The other
ways are combinations of the levels of `covering.factors`; a covering array contains every valid pair of levels. A case
that fails is reduced to the levels that make it fail.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..definitions.check import Measured, check
from .covering.agreement import Agreement, Deviation, differing
from .covering.array import covering_array
from .covering.factors import NAMES, Case, case_id
from .model_under_test import ModelUnderTest


@check("call-agreement", cause="a mask, position or argument that is right in some calls only", quick=False)
def call_agreement(subject: ModelUnderTest) -> Iterator[Measured]:
    """Every pair of ways to call the model (padding, packing, cache, dtype, ...) has the results of the plain way."""
    agreement = Agreement(subject)
    found: list[tuple[frozenset[tuple[str, str]], str]] = []
    for case in covering_array(agreement.levels, seed=subject.seed).cases:
        deviations = agreement.run(case)
        worst = max(deviations, key=_excess)
        if worst.holds:
            yield Measured(case_id(case), worst.error, worst.tolerance)
            continue
        known = next((cause for levels, cause in found if levels <= differing(case)), None)
        if known is None:
            smallest = agreement.shrunk(case)
            worst = max(agreement.run(smallest), key=_excess)
            known = _cause(smallest, worst)
            found.append((differing(smallest), known))
            yield Measured(case_id(smallest), worst.error, worst.tolerance, worst.where, known)
        else:
            yield Measured(case_id(case), worst.error, worst.tolerance, None, f"the same in {case_id(case)}")


def _excess(deviation: Deviation) -> float:
    """Return the error relative to the tolerance; inf if it is not a number."""
    if deviation.holds:
        return deviation.error / deviation.tolerance if deviation.tolerance else 0.0
    return max(deviation.error / deviation.tolerance, 1.0) if deviation.tolerance else float("inf")


def _cause(smallest: Case, worst: Deviation) -> str:
    levels = [f"{name}={smallest[name]}" for name in NAMES if (name, smallest[name]) in differing(smallest)]
    without = {0: "", 1: ", right without it", 2: ", right without either"}.get(
        len(levels), ", right without any of them"
    )
    size = "" if worst.what.startswith("raised") else f" off by {worst.error:.2g}, tolerance {worst.tolerance:.2g}"
    call = f"wrong with {' + '.join(levels)}{without}" if levels else "wrong in the plain call"
    return f"{call}: {worst.what}{size}"
