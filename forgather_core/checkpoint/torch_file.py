"""`.bin` files, which are pickles: only tensors are taken from them, and no code of theirs is run."""

from __future__ import annotations

import os
import pickle
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .stored import LiveTensor, WeightFile


def read_tensors(file: WeightFile) -> dict[str, LiveTensor]:
    """The tensors of a file, as pages of it that are read when touched (files of torch < 1.6: read at once).

    Raises:
        CheckpointError: It is damaged, holds anything but tensors, or tensors of a kind that no weight is.
    """
    try:
        state = _load(file)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file.path} is damaged, or holds code, which is not run: save its tensors alone, best as safetensors"
        ) from None
    except Exception as error:  # the reader trusts its input, and fails on garbage in any way
        raise CheckpointError(f"{file.path} is no weight file of torch, or is damaged: {_first_line(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{file.path} is no mapping of names to tensors")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{file.path} is no mapping of names to tensors: '{name}' is {_kind(tensor)}")
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"{file.path} holds '{name}', a tensor that is sparse, quantized or without values")
    return {name: LiveTensor(tensor) for name, tensor in state.items()}


def _load(file: WeightFile) -> Any:
    path = f"/proc/self/fd/{file.descriptor}"  # the very file that was opened, whatever its name leads to by now
    source: Any = path if os.path.exists(path) else file.path  # noqa: PTH110
    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):  # files of torch < 1.6 are no archives
            raise
        return torch.load(source, map_location="cpu", weights_only=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"
