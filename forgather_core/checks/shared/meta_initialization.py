"""Initialize a model that was built on the meta device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .model_under_test import ModelUnderTest


def initialized_after_meta(subject: ModelUnderTest, **how: Any) -> Any:
    """Build a model on the meta device, and initialize it in memory filled with NaN.

    Args:
        subject: The model under test.
        **how: Arguments of `subject.fresh_model`.
    """
    with torch.device("meta"):
        model = subject.fresh_model(**how)
    model.to_empty(device="cpu")
    fill_with_nan([*model.parameters(), *model.buffers()])
    if not subject.made_by_forgather:  # transformers' own classes skip tensors with this mark
        for one in (*model.modules(), *model.parameters(), *model.buffers()):
            one._is_hf_initialized = False
    model.init_weights()
    return model


def loaded_after_meta(subject: ModelUnderTest, weights: Mapping[str, Tensor]) -> Any:
    """Build a model on the meta device, and load weights into uninitialized memory, which torch fills with NaN.

    Args:
        subject: The model under test.
        weights: A state dict.
    """
    with torch.device("meta"):
        model = subject.fresh_model()
    with new_memory_is_nan():
        model.to_empty(device="cpu")
    model.load_state_dict(weights)
    return model


@contextmanager
def new_memory_is_nan() -> Iterator[None]:
    """Let torch fill the memory of new tensors with NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def fill_with_nan(tensors: Any) -> None:
    """Fill floating-point tensors with NaN; skip those on the meta device."""
    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point() and not tensor.is_meta:
                tensor.fill_(torch.nan)
