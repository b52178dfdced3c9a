"""Compute the training loss, in chunks if the model supports it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def can_skip_logits(model: Any) -> bool:
    """Return whether the model can compute its loss without materializing the logits, as exported models can."""
    unwrapped = getattr(model, "_orig_mod", model)  # torch.compile's wrapper hides the signature
    return "skip_logits" in inspect.signature(unwrapped.forward).parameters


def loss_of(model: Any, inputs: Mapping[str, Any], *, full_logits: bool = False) -> Tensor:
    """Return the mean cross-entropy of a batch, a scalar.

    Args:
        model: A transformers causal language model; it returns a loss when given labels.
        inputs: Its keyword arguments, including labels.
        full_logits: Compute the logits of all tokens even if the model supports a chunked loss.
    """
    options = {"skip_logits": not full_logits} if can_skip_logits(model) else {}
    loss: Tensor = model(**inputs, use_cache=False, **options).loss
    return loss
