"""Data types by name, and torch's default one for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import BuildError
from ..options.spec import did_you_mean

if TYPE_CHECKING:
    import torch

DTYPE_NAMES = ("float32", "bfloat16", "float16", "float64")
_ALIASES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
    "fp64": "float64",
    "double": "float64",
}


def parse_dtype(name: str) -> torch.dtype:
    """The floating-point type of that name: torch's own, with or without `torch.`, or bf16, fp16, fp32, fp64.

    Raises:
        BuildError: It is none that a model can be built in.
    """
    import torch

    plain = name.strip().lower().removeprefix("torch.")
    plain = _ALIASES.get(plain, plain)
    if plain not in DTYPE_NAMES:
        hint = did_you_mean(plain, (*DTYPE_NAMES, *_ALIASES))
        raise BuildError(f"--dtype: '{name}' is none of {', '.join(DTYPE_NAMES)} (or bf16, fp16, fp32){hint}")
    dtype: torch.dtype = getattr(torch, plain)
    return dtype


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make `dtype` torch's default floating-point type within the block.

    Args:
        dtype: A floating-point type.
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
