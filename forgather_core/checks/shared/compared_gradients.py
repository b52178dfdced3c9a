"""Comparison of gradients.

Rounding may decide on a gradient: that of ReLU jumps where its input is 0, and some gradients amplify rounding errors.
Two correct computations then differ. So if gradients differ, they are computed again with weights that differ from the
model's by rounding only: a correct computation has a small backward error (Higham 2002,
doi:10.1137/1.9780898718027, section 1.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...definitions.check import Measured
from .tolerance import rounding

Gradients = Mapping[str, Tensor]
_ROUNDINGS = (0.5, 1, 2, 4)  # the changes of weights, in rounding errors
_TRIES, _TRIES_WITHOUT_JUMP = 16, 6
MAX_AMPLIFIED = 30  # times the tolerance of a model that does not amplify errors


@dataclass(frozen=True)
class Recomputation:
    """A way to compute gradients again.

    Args:
        model: The model that one side of the comparison is computed from. Its weights are changed and restored.
        gradients: Computes this side.
        side: The side.
        limit: The largest tolerance of a model that may amplify rounding errors, as one that Forgather did not write:
            the effect of one rounding of each weight is allowed. None allows no amplification.
    """

    model: nn.Module
    gradients: Callable[[], Gradients]
    side: Literal["found", "expected"] = "found"
    limit: float | None = None


def limit_of_amplification(model: Any, *, own: bool) -> float | None:
    """Return the largest tolerance of amplified gradients; None for Forgather's own models, which amplify none."""
    return None if own else 2 * MAX_AMPLIFIED * rounding(model)


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the gradients of all parameters that have one."""
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def loss_and_gradients(model: Any, **inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a call, and its gradients."""
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), gradients_of(model)


def loss_gradients(model: Any, **inputs: Any) -> dict[str, Tensor]:
    """Return the gradients of the loss of a call."""
    return loss_and_gradients(model, **inputs)[1]


def gradient_error(found: Gradients, expected: Gradients) -> tuple[float, str | None]:
    """Return the largest relative difference of two sets of gradients, and the name of its parameter.

    A difference is relative to the root mean square of the parameter's own gradient or, if that is larger, of the
    gradient of all parameters: the terms of a sum may be of that size even if they cancel, as in the bias of keys.
    Zeros do not count: they are the rows of an embedding whose tokens do not occur. Rounding errors of a gradient are
    at most twice those of logits: it is computed from activations, and backwards through as many sums.

    Returns:
        The error is inf if the names differ, and NaN if there are no gradients or one of them is not finite.
    """
    if not expected:
        return math.nan, "no gradients"
    if found.keys() != expected.keys():
        return math.inf, ", ".join(sorted(found.keys() ^ expected.keys()))
    whole = _size(*expected.values())
    worst, where = 0.0, None
    for name, gradient in expected.items():
        error = float((found[name].double() - gradient.double()).abs().max()) / max(_size(gradient), whole, 1e-30)
        if not error <= worst:
            worst, where = error, name
        if math.isnan(error):
            break
    return worst, where


def compare_gradients(
    what: str, found: Gradients, expected: Gradients, tolerance: float, recomputation: Recomputation | None = None
) -> Measured:
    """Compare two sets of gradients, with twice the tolerance of the logits.

    Args:
        what: The case.
        found, expected: The gradients.
        tolerance: The allowed relative error of logits.
        recomputation: Shows whether rounding explains a difference; None if it cannot.
    """
    tolerance *= 2
    error, where = gradient_error(found, expected)
    if tolerance < error < math.inf and recomputation is not None:
        error, tolerance = _explained_by_rounding(found, expected, error, tolerance, recomputation)
    return Measured(what, error, tolerance, where)


def _explained_by_rounding(
    found: Gradients, expected: Gradients, error: float, tolerance: float, recomputation: Recomputation
) -> tuple[float, float]:
    """Return the error and the tolerance in view of other weights.

    If they change the gradients by more than the tolerance, there is a jump: both sides must agree where one has
    jumped. If not, their largest effect is the amplification of rounding errors, and is added to the tolerance.
    """

    def changes() -> tuple[float, float]:
        """Return the error of the new gradients, and their change."""
        new = recomputation.gradients()
        if recomputation.side == "found":
            return gradient_error(new, expected)[0], gradient_error(new, found)[0]
        return gradient_error(found, new)[0], gradient_error(new, expected)[0]

    if not changes()[1] <= tolerance:
        return error, tolerance  # the same weights give other gradients: this is no effect of rounding
    largest = of_one = 0.0
    for number in range(_TRIES):
        roundings = _ROUNDINGS[number % len(_ROUNDINGS)]
        with perturbed_weights(recomputation.model, roundings, number):
            other, change = changes()
        if other <= tolerance < change:
            return other, tolerance
        largest = max(largest, change)
        of_one = max(of_one, change) if roundings <= 1 else of_one
        if number + 1 == _TRIES_WITHOUT_JUMP and largest <= tolerance:
            return error, tolerance + largest
    return error, max(tolerance, min(tolerance + of_one, recomputation.limit or 0.0))


@contextmanager
def perturbed_weights(model: nn.Module, roundings: float, seed: int) -> Iterator[None]:
    """Multiply all weights by 1 + x, and restore them.

    Args:
        model: The model.
        roundings: Standard deviation of x, in rounding errors of the weight's dtype.
        seed: Seed of x.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = [(p, p.detach().clone()) for p in model.parameters() if p.is_floating_point()]
    try:
        with torch.no_grad():
            for parameter, _ in kept:
                drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device, parameter.dtype)
                parameter.mul_(1 + roundings * torch.finfo(parameter.dtype).eps * drawn)
        yield
    finally:
        with torch.no_grad():
            for parameter, weights in kept:
                parameter.copy_(weights)


def _size(*gradients: Tensor) -> float:
    """Return the root mean square of the elements that are not 0."""
    squares = sum(float(one.double().square().sum()) for one in gradients)
    return math.sqrt(squares / max(sum(int(one.count_nonzero()) for one in gradients), 1))
