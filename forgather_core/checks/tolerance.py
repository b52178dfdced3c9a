"""How far two computations of the same numbers may differ, by dtype and size, and how far they do.

A sum of n terms in another order differs by about eps sqrt(n) of the size of its terms (rounding errors are as likely
up as down; Higham and Mary 2019, doi:10.1137/18M1226312). A layer has some ten such sums and products one after
another, each over no more terms than the widest weight has, and the errors of layers add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..definitions.check import Measured

_A_LAYER = 10  # sums and products one after another


def rounding(model: Any, dtype: torch.dtype = torch.float32) -> float:
    """The relative error that two ways to compute the logits of a model may differ by.

    Args:
        model: Its depth and its widest weight count.
        dtype: In which both compute.
    """
    config = model.config.get_text_config()
    layers = getattr(config, "num_hidden_layers", None) or 1
    widest = max((max(p.shape) for p in model.parameters() if p.dim() == 2), default=1)
    return float(torch.finfo(dtype).eps) * _A_LAYER * (layers + 1) * math.sqrt(widest)


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a part of the root mean square of what is expected.

    inf where shapes differ; NaN where anything is not finite, or where nothing is compared.
    """
    if found.shape != expected.shape:
        return math.inf
    found, expected = found.detach().double(), expected.detach().double()
    if not expected.numel():
        return math.nan
    size = expected.square().mean().sqrt().clamp_min(1e-30)
    return float((found - expected).abs().max() / size)


def position_of(found: Tensor, expected: Tensor, names: tuple[str, ...] = ("row", "position")) -> str | None:
    """Where the two differ most: "row 1, position 7"."""
    if found.shape != expected.shape:
        return f"shape {tuple(found.shape)}, and not {tuple(expected.shape)}"
    if not found.numel():
        return "nothing is compared"
    worst = int((found.detach().double() - expected.detach().double()).abs().nan_to_num(torch.inf).argmax())
    place = torch.unravel_index(torch.tensor(worst), found.shape)
    return ", ".join(f"{name} {int(at)}" for name, at in zip(names, place, strict=False)) or None


def compared(
    what: str,
    found: Tensor,
    expected: Tensor,
    tolerance: float = 0.0,
    names: tuple[str, ...] = ("row", "position"),
) -> Measured:
    """Two tensors that should be equal, to the last bit or within a relative error, and where they are not."""
    return Measured(what, relative(found, expected), tolerance, position_of(found, expected, names))


def unlike(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """The names under which two tensors are not the same: in kind, place, or any bit; or of which one has none."""

    def same(one: Tensor, two: Tensor) -> bool:
        return one.dtype == two.dtype and one.device == two.device and torch.equal(one, two)

    names = sorted(found.keys() | expected.keys())
    return [n for n in names if not (n in found and n in expected and same(found[n], expected[n]))]


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """The gradients of all parameters that have one."""
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def gradient_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[float, str | None]:
    """The largest difference of two gradients, and the parameter that has it; inf where one has a parameter more.

    A difference is a part of the root mean square of the parameter's own gradient or, where that is larger, of the
    gradient of all parameters: the terms of a sum may be of that size although they cancel, as those of the bias of
    keys do. Zeros do not count: they are the rows of an embedding whose tokens do not occur. Rounding errors of a
    gradient are at most twice those of logits: it is computed of activations, and backwards through as many sums again.
    """
    if not expected:
        return math.nan, "no gradients are compared"
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


def gradients_compared(
    what: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float
) -> Measured:
    """Two gradients, held to twice the tolerance of the logits they are of."""
    error, where = gradient_error(found, expected)
    return Measured(what, error, 2 * tolerance, where)


def _size(gradient: Tensor) -> float:
    """The root mean square of what is not zero."""
    return float((gradient.double().square().sum() / gradient.count_nonzero().clamp_min(1)).sqrt())
