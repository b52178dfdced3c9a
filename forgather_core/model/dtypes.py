"""Parse dtype names, and set torch's default dtype within a block."""

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
_SHORT = ("bf16", "fp16", "fp32", "fp64")


def parse_dtype(name: str) -> torch.dtype:
    """Return the floating-point dtype of a name: torch's own, with or without `torch.`, or bf16, fp16, fp32, fp64.

    Raises:
        BuildError: The name is unknown, or a model cannot be built in that dtype.
    """
    import torch

    plain = name.strip().lower().removeprefix("torch.")
    plain = _ALIASES.get(plain, plain)
    if plain not in DTYPE_NAMES:
        hint = did_you_mean(plain, (*DTYPE_NAMES, *_SHORT))
        problem = f"must be one of {', '.join(DTYPE_NAMES)} (or {', '.join(_SHORT)}); got '{name}'"
        raise BuildError(problem, option="--dtype", hint=hint)
    dtype: torch.dtype = getattr(torch, plain)
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
