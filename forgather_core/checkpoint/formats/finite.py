"""Whether numbers are finite, at a fraction of what it costs to move them."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from .stored import memory_of

_NEAR = 2**19  # bytes that stay in a processor's own memory from one pass to the next

# Of numbers with a sign bit first, the bits of those that are not finite are the largest: of each sign, from here on.
_LIMITS = {
    torch.float64: (torch.int64, 0x7FF0_0000_0000_0000),
    torch.float32: (torch.int32, 0x7F80_0000),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
    torch.float8_e5m2: (torch.int8, 0x7C),
    torch.float8_e4m3fn: (torch.int8, 0x7F),
}


def non_finite(tensor: Tensor) -> bool:
    """Return whether a floating-point tensor of any device and layout holds NaN or an infinity."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return False
    if tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.dtype in _LIMITS:
        step, has = _NEAR // tensor.element_size(), part_scanner(tensor)
        return any(has(start, start + step) for start in range(0, tensor.numel(), step))
    if tensor.dtype.itemsize == 1:  # torch has no reductions over 8-bit floats
        return not bool(torch.isfinite(tensor.float()).all())
    low, high = torch.aminmax(tensor)
    return not (isfinite(low.item()) and isfinite(high.item()))


def part_scanner(tensor: Tensor) -> Callable[[int, int], bool]:
    """Return a function that reports whether any element between two indices is NaN or infinite.

    Args:
        tensor: A tensor on the CPU, contiguous.
    """
    flat = tensor.detach().view(-1)
    if tensor.dtype not in _LIMITS:
        return lambda start, end: non_finite(flat[start:end])
    # Bits are compared as integers, which processors do fastest: signed, negative numbers are the smallest; unsigned,
    # the largest.
    integers, limit = _LIMITS[tensor.dtype]
    # Tensor.numpy() would leave the tensor with memory that cannot be resized, which FSDP does.
    signed = np.frombuffer(memory_of(flat), dtype=f"i{integers.itemsize}") if flat.numel() else np.empty(0, "i8")
    unsigned = signed.view(f"u{signed.itemsize}")
    negative = limit + (1 << 8 * tensor.element_size() - 1)

    def has(start: int, end: int, _alive: Tensor = flat) -> bool:
        return bool(signed[start:end].max() >= limit or unsigned[start:end].max() >= negative)

    return has
