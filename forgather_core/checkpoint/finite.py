"""Whether numbers are finite, at a fraction of what it costs to move them."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor

from .stored import memory_of

_NEAR = 2**20  # bytes that stay in a processor's own memory from one pass to the next


def non_finite(tensor: Tensor) -> bool:
    """Whether a tensor of floating-point numbers has NaN or an infinity in it."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return False
    if tensor.dtype.itemsize == 1:  # torch has no reductions over 8-bit floats
        return not bool(torch.isfinite(tensor.float()).all())
    if tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.dtype in (torch.float32, torch.bfloat16):
        step = _NEAR // tensor.element_size()
        flat = tensor.detach().view(-1)
        return any(_is_suspicious(part) and _has_non_finite(part) for part in torch.split(flat, step))
    return _has_non_finite(tensor)


def _has_non_finite(tensor: Tensor) -> bool:
    low, high = torch.aminmax(tensor)
    return not (isfinite(low.item()) and isfinite(high.item()))


def _is_suspicious(part: Tensor) -> bool:
    """Whether a sum over the numbers is not finite: because one of them is not, or because together they are too large.

    To sum is the fastest that processors can do with numbers, of float32. Two bfloat16 make a float32 with the exponent
    of the second, which is what tells infinity and NaN: pairs are summed from the first number on, and from the next.
    """
    if part.dtype is torch.float32:
        return not isfinite(part.sum().item())
    count = part.numel() // 2
    if count < 2:
        return True
    memory = memory_of(part)
    pairs = torch.frombuffer(memory, dtype=torch.float32, count=count)
    others = torch.frombuffer(memory, dtype=torch.float32, count=(part.numel() - 1) // 2, offset=2)
    return not isfinite(pairs.sum().item() + others.sum().item() + part[0].item())
