"""Whether numbers are finite, at a fraction of what it costs to move them."""

from __future__ import annotations

from math import isfinite

import numpy as np
import torch
from torch import Tensor

from .stored import memory_of

_NEAR = 2**20  # bytes that stay in a processor's own memory from one pass to the next

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
        step = _NEAR // tensor.element_size()
        return any(map(_has_large_bits, torch.split(tensor.detach().view(-1), step)))
    if tensor.dtype.itemsize == 1:  # torch has no reductions over 8-bit floats
        return not bool(torch.isfinite(tensor.float()).all())
    low, high = torch.aminmax(tensor)
    return not (isfinite(low.item()) and isfinite(high.item()))


def _has_large_bits(part: Tensor) -> bool:
    """Compare bits as integers, which processors do fastest: signed, negative numbers are the smallest; unsigned, the
    largest."""
    integers, limit = _LIMITS[part.dtype]
    # Tensor.numpy() would leave the tensor with memory that cannot be resized, which FSDP does.
    signed = np.frombuffer(memory_of(part), dtype=f"i{integers.itemsize}")
    unsigned = signed.view(f"u{integers.itemsize}")
    return bool(signed.max() >= limit) or bool(unsigned.max() >= limit + (1 << 8 * part.element_size() - 1))
