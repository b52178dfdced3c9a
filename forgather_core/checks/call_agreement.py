"""Call agreement: every way to call a model gives the same results as the plain call.

The plain call has one document alone, in float32, with eager attention, in evaluation mode, without a cache. The other
calls are combinations of the levels of `covering.factors`. A covering array contains every valid pair of levels. A case
that fails is reduced to the levels that make it fail, and cases that fail for the same reason are grouped.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..definitions.check import Details, Measured, check
from .covering.calls import Calls
from .covering.failures import measured_cases
from .covering.requested import details_of, requested_array
from .shared.model_under_test import ModelUnderTest


@check("call-agreement", cause="a mask, position or argument that is correct in some calls only")
def call_agreement(subject: ModelUnderTest) -> Iterator[Measured | Details]:
    """Every pair of ways to call a model (padding, packing, cache, dtype, ...) gives the results of the plain call."""
    with Calls(subject) as calls:
        array = requested_array(calls.agreement)
        failures = calls.failures(array.cases)
        yield from measured_cases(array.cases, calls.worst_of, failures)
        yield Details(details_of(calls.agreement, array, failures))
