"""Statistics of dropout masks, in standard errors.

If the elements of a mask are independent, the product of the deviations of two elements from the mean has mean 0. A sum
of n such products has the standard error v sqrt(n), where v is the variance of an element, p (1 - p).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from .dropout_calls import DropoutCall

ENOUGH = 400  # minimum number of elements, or of pairs, for a sum that is close to normally distributed
# Allowed standard errors: a check makes many comparisons, and equal elements have sqrt(ENOUGH) or more.
MAX_CORRELATION = 10.0
_AXES = {2: ("tokens", "features"), 3: ("rows", "tokens", "features"), 4: ("rows", "heads", "queries", "keys")}


class Mask:
    """The mask of a call of a dropout function; elements whose input is 0 do not count.

    Args:
        call: The call.
    """

    def __init__(self, call: DropoutCall) -> None:
        assert call.before is not None and call.after is not None
        self.call = call
        self.valid = call.before != 0
        dropped = self.valid & (call.after == 0)
        self.count, self.dropped = int(self.valid.sum()), int(dropped.sum())
        share = self.dropped / max(self.count, 1)
        self.variance = share * (1 - share)
        self.deviations: Tensor = (dropped.double() - share) * self.valid

    def scale_error(self, scale: float) -> float:
        """Return the largest relative difference of kept elements from the input times `scale`."""
        assert self.call.before is not None and self.call.after is not None
        kept = (self.call.after != 0) & (self.call.before.abs() > 1e-30)  # smaller numbers are rounded more
        ratio = self.call.after[kept].double() / self.call.before[kept].double()
        return float((ratio / scale - 1).abs().max()) if ratio.numel() else 0.0

    def along_axes(self) -> Iterator[tuple[float, str]]:
        """Yield the correlation of elements at each distance along each dimension, in standard errors, and its name."""
        names = _AXES.get(self.valid.dim(), ())
        for axis, size in enumerate(self.valid.shape):
            for distance in range(1, size):
                near, far = ((axis, 0, size - distance), (axis, distance, size - distance))
                total = (self.deviations.narrow(*near) * self.deviations.narrow(*far)).sum()
                count = (self.valid.narrow(*near) & self.valid.narrow(*far)).sum()
                error = standard_errors(float(total), int(count), self.variance)
                yield error, names[axis] if names else f"dimension {axis}"


def share_error(dropped: int, count: int, probability: float) -> float:
    """Return the difference of a share of dropped elements from its probability, in standard errors."""
    return standard_errors(dropped - count * probability, count, math.sqrt(probability * (1 - probability)))


def standard_errors(total: float, count: int, std: float) -> float:
    """Return the size of a sum of `count` numbers of mean 0 in standard errors; 0 if they are too few or constant."""
    return abs(total) / (std * math.sqrt(count)) if count >= ENOUGH and std else 0.0


def most_correlated(masks: Sequence[Mask]) -> tuple[float, DropoutCall, DropoutCall] | None:
    """Return the largest correlation of two masks of equal shape, in standard errors, and their calls; or None."""
    found = []
    for one, two in itertools.combinations(masks, 2):
        if one.valid.shape == two.valid.shape:
            total, count = float((one.deviations * two.deviations).sum()), int((one.valid & two.valid).sum())
            error = standard_errors(total, count, math.sqrt(one.variance * two.variance))
            found.append((error, one.call, two.call))
    return max(found, key=lambda pair: pair[0], default=None)
