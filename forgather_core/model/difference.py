"""Relative differences between two tensors."""

from __future__ import annotations

import math

from torch import Tensor


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, relative to the root mean square of the expected tensor.

    Args:
        found: The tensor to compare.
        expected: The expected tensor, of the same shape.

    Returns:
        inf if the shapes differ; NaN if either tensor has a value that is not finite, or if both are empty.
    """
    if found.shape != expected.shape:
        return math.inf
    found, expected = found.detach().double(), expected.detach().double()
    if not expected.numel():
        return math.nan
    rms = expected.square().mean().sqrt().clamp_min(1e-30)
    return float((found - expected).abs().max() / rms)


def rms_difference(found: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference, relative to that of the expected tensor; inf if shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    found, expected = found.detach().double(), expected.detach().double()
    return float(((found - expected).square().mean() / expected.square().mean()).sqrt())
