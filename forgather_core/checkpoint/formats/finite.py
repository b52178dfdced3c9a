"""Check tensors for NaN and Inf at a fraction of the cost of copying them."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from .stored import memory_of

CACHE_BLOCK_BYTES = 2**19  # fits into the processor's cache; a multiple of every dtype's width

# Floats store the sign bit first. For each sign, bit patterns from this limit on are NaN or infinite.
_LIMITS = {
    torch.float64: (torch.int64, 0x7FF0_0000_0000_0000),
    torch.float32: (torch.int32, 0x7F80_0000),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
    torch.float8_e5m2: (torch.int8, 0x7C),
    torch.float8_e4m3fn: (torch.int8, 0x7F),
}


def non_finite(tensor: Tensor) -> bool:
    """Return whether a floating-point tensor on any device, in any layout, contains NaN or Inf."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return False
    if tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.dtype in _LIMITS:
        step, is_bad = CACHE_BLOCK_BYTES // tensor.element_size(), part_scanner(tensor)
        return any(is_bad(start, start + step) for start in range(0, tensor.numel(), step))
    if tensor.dtype.itemsize == 1:  # torch has no reductions for 8-bit floats
        return not bool(torch.isfinite(tensor.float()).all())
    low, high = torch.aminmax(tensor)
    return not (isfinite(low.item()) and isfinite(high.item()))


def part_scanner(tensor: Tensor) -> Callable[[int, int], bool]:
    """Return a function that checks the elements between two indices for NaN and Inf.

    Args:
        tensor: A contiguous tensor on the CPU.
    """
    flat = tensor.detach().view(-1)
    if tensor.dtype not in _LIMITS:
        return lambda start, end: non_finite(flat[start:end])
    # Comparing the bits as integers is fastest: signed integers order the negative floats lowest, unsigned
    # integers order them highest.
    integers, limit = _LIMITS[tensor.dtype]
    # Tensor.numpy() would make the tensor's memory unresizable, and FSDP resizes it.
    signed = np.frombuffer(memory_of(flat), dtype=f"i{integers.itemsize}") if flat.numel() else np.empty(0, "i8")
    unsigned = signed.view(f"u{signed.itemsize}")
    negative = limit + (1 << 8 * tensor.element_size() - 1)

    def is_bad(start: int, end: int, _alive: Tensor = flat) -> bool:
        return bool(signed[start:end].max() >= limit or unsigned[start:end].max() >= negative)

    return is_bad
