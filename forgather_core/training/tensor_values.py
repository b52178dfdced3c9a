"""Inspect the tensors in nested inputs and outputs: non-finite values, dtypes and magnitudes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import chain
from math import sqrt
from typing import Any

import torch
from torch import Tensor


def nested_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors in mappings, sequences and dataclasses; for a sparse tensor, its values."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value._values() if value.is_sparse else value  # type: ignore[no-untyped-call]
    elif isinstance(value, Mapping):  # includes ModelOutput
        yield from chain.from_iterable(map(nested_tensors, value.values()))
    elif isinstance(value, (tuple, list)):
        yield from chain.from_iterable(map(nested_tensors, value))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from chain.from_iterable(nested_tensors(getattr(value, field.name)) for field in fields(value))


def nonfinite_value(value: Any, *, strict: bool = False) -> str | None:
    """Return the kind of non-finite value that a nested value contains: `NaN`, `inf` or `-inf`; None if all are finite.

    Args:
        value: Tensors, nested in any way.
        strict: Also report -inf in tensors that require no gradient. By default it counts as an attention mask.
    """
    for tensor in nested_tensors(value):
        if torch.isfinite(tensor).all():
            continue
        if torch.isnan(tensor).any():
            return "NaN"
        if strict or tensor.requires_grad or torch.isposinf(tensor).any():
            return "inf" if torch.isposinf(tensor).any() else "-inf"
    return None


def nonfinite_tensor(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return "NAME contains NaN" for the first named tensor with a non-finite value, or None."""
    return next((f"{name} contains {kind}" for name, tensor in named if (kind := nonfinite_value(tensor))), None)


def has_float16(value: Any) -> bool:
    """Return whether a nested value contains a float16 tensor."""
    return any(tensor.dtype == torch.float16 for tensor in nested_tensors(value))


def largest_rms(value: Any) -> float:
    """Return the largest root mean square among the tensors of a nested value; 0 if there are none."""
    return max((_rms(tensor.detach()) for tensor in nested_tensors(value)), default=0.0)


def _rms(tensor: Tensor) -> float:
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
    return float(norm) / sqrt(max(tensor.numel(), 1))
