"""Models that transformers has saved and loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from .model_under_test import ModelUnderTest


def reloaded(subject: ModelUnderTest, model: Any, dtype: torch.dtype, **how: Any) -> Any:
    """Return a model that was saved, and loaded in a dtype, in evaluation mode.

    Args:
        subject: The model under test.
        model: A model of its class.
        dtype: The dtype of the loaded weights.
        how: Other arguments of `from_pretrained`.
    """
    from transformers import AutoModelForCausalLM

    with subject.scratch() as directory:
        saved = subject.save(model, directory)
        return AutoModelForCausalLM.from_pretrained(saved, dtype=dtype, **subject.loading | how).eval()


@torch.no_grad()
def align(model: nn.Module) -> None:
    """Copy the weights of a loaded model to memory of their own, as those of a new model have.

    A loaded weight may lie anywhere in a mapped file. Of a weight at another alignment, some products take another
    kernel and round differently, so that equal models have logits that are not equal to the last bit.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
