"""Parse dtype names, and set torch's default dtype within a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import BuildError, ConfigurationError
from ..options.torch_names import dtype_name

if TYPE_CHECKING:
    import torch


def parse_dtype(name: str) -> torch.dtype:
    """Return the floating-point dtype of a name: torch's own, with or without `torch.`, or bf16, fp16, fp32, fp64.

    Raises:
        BuildError: The name is unknown, or a model cannot be built in that dtype.
    """
    import torch

    try:
        dtype: torch.dtype = getattr(torch, dtype_name(name))
    except ConfigurationError as error:
        raise error.at(BuildError, option="--dtype") from None
    return dtype


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make `dtype` torch's default dtype within the block.

    Args:
        dtype: A floating-point dtype.
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
