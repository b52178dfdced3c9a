"""Words for errors: names that come from a file may hold anything, and an error is one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from .printable import printable

_LONGEST = 120  # characters of a name
_SHOWN = 3  # names in a line


def printable_name(text: object) -> str:
    """A name as it can be printed: what is not printable is escaped, what is long is cut."""
    whole = str(text)
    return printable(whole[:_LONGEST]) + ("..." if len(whole) > _LONGEST else "")


def truncated_list(names: Sequence[object]) -> str:
    """The first few of them."""
    return ", ".join(map(printable_name, names[:_SHOWN])) + (
        f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    )


def tensors(count: int) -> str:
    """`3 tensors`."""
    return "1 tensor" if count == 1 else f"{count} tensors"


def shape_of(shape: Iterable[int]) -> str:
    """`16 x 8`."""
    return printable_name(" x ".join(map(str, shape)) or "scalar")


def dtype_of(dtype: torch.dtype) -> str:
    """`float32`."""
    return str(dtype).removeprefix("torch.")
