"""Inputs embeds: embeddings can be passed instead of token ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..definitions.check import Measured, check, expect
from .shared.model_under_test import ModelUnderTest
from .shared.tolerance import compare


@check("inputs-embeds", cause="an operation on embeddings that only one of input_ids and inputs_embeds passes through")
def inputs_embeds(subject: ModelUnderTest) -> Iterator[Measured]:
    """inputs_embeds and their input_ids give the same logits, to the last bit; exactly one of the two is required."""
    model = subject.randomized_model()
    text = subject.tokens(2)
    embeds = model.get_input_embeddings()(text).detach()
    with torch.no_grad():
        expected = model(text).logits
        logits = model(inputs_embeds=embeds).logits
    yield compare("inputs_embeds instead of input_ids", logits, expected)
    leaf = embeds.clone().requires_grad_()
    model(inputs_embeds=leaf, use_cache=False).logits[:, -1].sum().backward()
    reached = leaf.grad is not None and bool(leaf.grad[:, -1].abs().sum() > 0)
    yield expect("inputs_embeds receive gradients", reached)
    yield expect("passing both raises a ValueError", _raises(model, input_ids=text, inputs_embeds=embeds))
    yield expect("passing neither raises a ValueError", _raises(model))


def _raises(model: Any, **inputs: Any) -> bool:
    try:
        with torch.no_grad():
            model(**inputs)
    except ValueError:
        return True
    return False
