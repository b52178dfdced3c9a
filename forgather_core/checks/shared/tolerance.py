"""Comparison of tensors and gradients, and the rounding errors that are allowed, by dtype and size.

A sum of n terms in another order differs by about eps sqrt(n) of the size of its terms (rounding errors are as likely
up as down; Higham and Mary 2019, doi:10.1137/18M1226312). A layer has about ten such sums and products in sequence,
each over at most as many terms as the widest weight has, or the text if it is longer, and the errors of layers add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...definitions.check import Measured
from ...model.difference import relative_difference

SIGMAS = 6  # allowed standard errors of a statistic: a correct one exceeds them with probability 2e-9
LARGE_EPS = 0.1  # an eps of norms that is large enough to show where it is added
_OPERATIONS = 10  # sums and products in sequence, in each layer
_LATENT = 4  # latent attention has two more products and two more norms


def rounding(model: Any, dtype: torch.dtype = torch.float32, *, tokens: int = 0) -> float:
    """Return the relative error allowed between two ways to compute a model's logits.

    Args:
        model: The model; its depth and its widest weight determine the error.
        dtype: The dtype of both computations.
        tokens: The tokens of a text, over which attention and gradients of weights are summed.
    """
    config = model.config.get_text_config()
    layers = getattr(config, "num_hidden_layers", None) or 1
    operations = _OPERATIONS + (_LATENT if getattr(config, "kv_lora_rank", None) else 0)
    widest = max((max(p.shape) for p in model.parameters() if p.dim() == 2), default=1)
    return float(torch.finfo(dtype).eps) * operations * (layers + 1) * math.sqrt(max(widest, tokens))


def position_of_largest(found: Tensor, expected: Tensor, names: tuple[str, ...] = ("row", "position")) -> str | None:
    """Return the position of the largest difference, such as "row 1, position 7"."""
    if found.shape != expected.shape:
        return f"shape: expected {tuple(expected.shape)}, got {tuple(found.shape)}"
    if not found.numel():
        return "empty tensors"
    worst = int((found.detach().double() - expected.detach().double()).abs().nan_to_num(torch.inf).argmax())
    place = torch.unravel_index(torch.tensor(worst), found.shape)
    return ", ".join(f"{name} {int(at)}" for name, at in zip(names, place, strict=False)) or None


def compare(
    what: str,
    found: Tensor,
    expected: Tensor,
    tolerance: float = 0.0,
    names: tuple[str, ...] = ("row", "position"),
) -> Measured:
    """Compare two tensors: by default they must be equal to the last bit.

    Args:
        what: The case.
        found, expected: The tensors.
        tolerance: The allowed relative error.
        names: The names of the first dimensions, to report where the tensors differ.
    """
    if found.shape != expected.shape:
        failure = f"{what}: expected shape {tuple(expected.shape)}, got {tuple(found.shape)}"
        return Measured(what, math.inf, tolerance, failure=failure)
    return Measured(what, relative_difference(found, expected), tolerance, position_of_largest(found, expected, names))


def different_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return the names whose tensors differ in dtype, device or any bit, or that only one mapping has."""

    def same(one: Tensor, two: Tensor) -> bool:
        return one.dtype == two.dtype and one.device == two.device and torch.equal(one, two)

    names = sorted(found.keys() | expected.keys())
    return [n for n in names if not (n in found and n in expected and same(found[n], expected[n]))]
