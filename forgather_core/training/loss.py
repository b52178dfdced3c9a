"""How a training step begins: the loss of a model, without its logits where the model can do without."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def can_skip_logits(model: Any) -> bool:
    """Whether the model takes labels for the loss alone: ours do, others may not know of it."""
    return "skip_logits" in inspect.signature(model.forward).parameters


def loss_of(model: Any, inputs: Mapping[str, Any], *, keep_logits: bool = False) -> Tensor:
    """The mean cross-entropy of a batch, a scalar.

    Args:
        model: A causal language model of transformers: given labels, it returns a loss.
        inputs: Its keyword arguments, labels among them.
        keep_logits: Whether logits of all tokens are computed even if the model can do without.
    """
    more = {"skip_logits": not keep_logits} if can_skip_logits(model) else {}
    loss: Tensor = model(**inputs, use_cache=False, **more).loss
    return loss
