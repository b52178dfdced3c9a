"""Comparison of gradients, also where rounding decides on them.

The gradient of ReLU jumps where its input is 0. If an input is so close to 0 that rounding decides on its sign, two
correct computations have different gradients. A computation is then correct if its gradients are those of weights that
differ from the model's by rounding only: if its backward error is small (Higham 2002, doi:10.1137/1.9780898718027,
section 1.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...definitions.check import Measured

Gradients = Mapping[str, Tensor]
_ROUNDINGS = (0.5, 1, 2, 4)  # rounding errors by which weights are changed, in turn
_TRIES, _FEW_TRIES = 32, 8


@dataclass(frozen=True)
class Again:
    """How to compute gradients again, with other weights.

    Args:
        model: The model whose weights are changed meanwhile.
        gradients: Returns the compared gradients; those that do not depend on the model are as before.
    """

    model: nn.Module
    gradients: Callable[[], tuple[Gradients, Gradients]]


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the gradients of all parameters that have one."""
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def loss_gradients(model: Any, **inputs: Any) -> dict[str, Tensor]:
    """Return the gradients of the loss of a call."""
    model.zero_grad()
    model(**inputs).loss.backward()
    return gradients_of(model)


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
    whole = _size(torch.cat([gradient.double().flatten() for gradient in expected.values()]))
    worst, where = 0.0, None
    for name, gradient in expected.items():
        error = float((found[name].double() - gradient.double()).abs().max()) / max(_size(gradient), whole, 1e-30)
        if not error <= worst:
            worst, where = error, name
        if math.isnan(error):
            break
    return worst, where


def compare_gradients(
    what: str, found: Gradients, expected: Gradients, tolerance: float, again: Again | None = None
) -> Measured:
    """Compare two sets of gradients, with twice the tolerance of the logits.

    Args:
        what: The case.
        found, expected: The gradients.
        tolerance: The allowed relative error of logits.
        again: If they differ, the gradients of a model whose weights differ by rounding may agree instead.
    """
    tolerance *= 2
    error, where = gradient_error(found, expected)
    if tolerance < error < math.inf and again is not None:
        error, where = _nearest(found, expected, tolerance, again) or (error, where)
    return Measured(what, error, tolerance, where)


def _nearest(found: Gradients, expected: Gradients, tolerance: float, again: Again) -> tuple[float, str | None] | None:
    """Return the first error within the tolerance, with other weights; None if there is none.

    If the first changes of the weights do not change the gradients, there is no jump.
    """
    jumps = False
    for number in range(_TRIES):
        with _nudged(again.model, _ROUNDINGS[number % len(_ROUNDINGS)], number):
            pair = again.gradients()
        error, where = gradient_error(*pair)
        if error <= tolerance:
            return error, where
        changes = (gradient_error(new, old)[0] for new, old in zip(pair, (found, expected), strict=True))
        jumps = jumps or max(changes) > tolerance
        if number + 1 == _FEW_TRIES and not jumps:
            break
    return None


@contextmanager
def _nudged(model: nn.Module, roundings: float, seed: int) -> Iterator[None]:
    """Change all weights by random multiples of so many rounding errors, and restore them."""
    generator = torch.Generator().manual_seed(seed)
    kept = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    try:
        with torch.no_grad():
            for parameter, _ in kept:
                drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device, parameter.dtype)
                parameter.mul_(1 + roundings * torch.finfo(torch.float32).eps * drawn)
        yield
    finally:
        with torch.no_grad():
            for parameter, weights in kept:
                parameter.copy_(weights)


def _size(gradient: Tensor) -> float:
    """Return the root mean square of the elements that are not 0."""
    return float((gradient.double().square().sum() / gradient.count_nonzero().clamp_min(1)).sqrt())
