"""Greedy decoding by full forward passes, to which `generate()` and `generate_batch()` are compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from .model_under_test import ModelUnderTest
from .tolerance import rounding

NEW_TOKENS = 8  # more than a shrunk window


def model_without_eos(subject: ModelUnderTest, attention: str) -> Any:
    """Return a model that decodes greedily and has no EOS token, so that it never stops early."""
    model = subject.randomized_model(attention=attention)
    pad = getattr(subject.text_config, "pad_token_id", None)
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=pad if isinstance(pad, int) else 0)
    return model


def greedy_text(model: Any, ids: Tensor) -> list[int]:
    """Return NEW_TOKENS tokens that greedy decoding adds to a row [1, T], or those before rounding may change one.

    Each token is that of a full forward pass over the row, without a cache.

    Args:
        model: The model.
        ids: The token ids of the row.
    """
    tokens: list[int] = []
    for _ in range(NEW_TOKENS):
        logits = model(ids, use_cache=False).logits[0, -1]
        first, second = logits.topk(2).values
        if first - second <= 2 * rounding(model) * logits.square().mean().sqrt():
            break
        tokens.append(int(logits.argmax()))
        ids = torch.cat((ids, logits.argmax()[None, None]), dim=1)
    return tokens


def first_difference(found: list[int], expected: list[int]) -> int | None:
    """Return the index of the first expected token that differs or is missing; None if all are found."""
    if len(found) < len(expected):
        return len(found)
    return next((at for at, (one, other) in enumerate(zip(found, expected, strict=False)) if one != other), None)
