"""The derivative of the loss by central differences, to which gradients are compared.

A part that is detached from the graph changes the loss and not its gradient. A difference over a step h has an error of
h squared, and one of rounding divided by h, so that several steps are tried: a wrong gradient differs with all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from .selection import Selections, same_selections

TOLERANCE = 0.05  # of the gradient; a detached factor or summand is a large part of it
_STEPS = (1e-3, 1e-4, 1e-2, 1e-5)  # of the size of a weight


@torch.no_grad()
def is_deterministic(model: Any, text: Tensor) -> bool:
    """Return whether two calls give the same loss: a router may be random in training."""
    return torch.equal(*(model(text, labels=text, use_cache=False).loss for _ in range(2)))


def derivative_error(model: Any, text: Tensor, gradients: Mapping[str, Tensor], seed: int) -> tuple[float, str | None]:
    """Return the largest error of a gradient along one direction, and the name of its parameter.

    The direction is a mixture of the gradient and a random one. Errors are relative to the gradient of the parameter,
    or to a hundredth of that of all, if it is larger: some gradients are 0, such as that of a bias of keys.

    Args:
        model: The model, in training mode without dropout. Its weights are changed and restored.
        text: Token ids [B, T], which are the labels, too.
        gradients: The gradients to compare, by parameter.
        seed: Seed of the directions.
    """

    with torch.no_grad(), Selections() as selections:
        model(text, labels=text, use_cache=False)

    def loss() -> Tensor:
        with same_selections(selections.found):  # the loss jumps where they change
            result: Tensor = model(text, labels=text, use_cache=False).loss
        return result

    whole = math.sqrt(sum(float(one.square().sum()) for one in gradients.values()))
    generator = torch.Generator().manual_seed(seed)
    worst, where = 0.0, None
    for name, gradient in gradients.items():
        drawn = torch.randn(gradient.shape, generator=generator).to(gradient)
        direction = _unit(_unit(gradient) + _unit(drawn))
        expected = float((gradient * direction).sum())
        size = max(float(gradient.norm()), whole / 100, 1e-30)
        found: list[float] = []
        for step in _STEPS:
            found.append(_difference(loss, model.get_parameter(name), direction, step))
            if abs(found[-1] - expected) <= TOLERANCE * size:
                break
        error = min(abs(one - expected) for one in found) / size
        if not error <= worst and (error <= TOLERANCE or _is_smooth(found, size)):
            worst, where = error, name
    return worst, where


def _is_smooth(found: list[float], size: float) -> bool:
    """Return whether two steps agree: those of a step function, as of quantized weights, do not, or are 0."""
    return any(
        min(abs(one), abs(other)) > TOLERANCE * size / 10 and abs(one - other) <= 0.2 * max(abs(one), abs(other))
        for one, other in combinations(found, 2)
    )


@torch.no_grad()
def _difference(loss: Callable[[], Tensor], parameter: Tensor, direction: Tensor, step: float) -> float:
    """Return the central difference of the loss along a direction of unit length."""
    kept, h = parameter.clone(), step * max(float(parameter.norm()), 1e-6)
    sides = []
    for sign in (1, -1):
        parameter.copy_(kept + sign * h * direction)
        sides.append(float(loss()))
    parameter.copy_(kept)
    return (sides[0] - sides[1]) / (2 * h)


def _unit(tensor: Tensor) -> Tensor:
    return tensor / max(float(tensor.norm()), 1e-30)
