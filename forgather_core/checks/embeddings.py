"""Embeddings: what the input embeddings give can be given instead of token ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..definitions.check import Measured, check, expect
from .subject import ModelUnderTest
from .tolerance import compared


@check("inputs-embeds", cause="something done to embeddings on one of the two ways only")
def embeddings(subject: ModelUnderTest) -> Iterator[Measured]:
    """inputs_embeds have the logits of the input_ids that they are of, to the last bit; one of both is given."""
    model = subject.model()
    text = subject.tokens(2)
    embeds = model.get_input_embeddings()(text).detach()
    with torch.no_grad():
        expected = model(text).logits
        logits = model(inputs_embeds=embeds).logits
    yield compared("inputs_embeds instead of input_ids", logits, expected)
    leaf = embeds.clone().requires_grad_()
    model(inputs_embeds=leaf, use_cache=False).logits[:, -1].sum().backward()
    reached = leaf.grad is not None and bool(leaf.grad[:, -1].abs().sum() > 0)
    yield expect("gradients reach inputs_embeds", reached)
    yield expect("both are an error", _refused(model, input_ids=text, inputs_embeds=embeds))
    yield expect("neither is an error", _refused(model))


def _refused(model: Any, **inputs: Any) -> bool:
    try:
        with torch.no_grad():
            model(**inputs)
    except ValueError:
        return True
    return False
