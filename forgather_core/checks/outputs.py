"""Outputs that are asked for: hidden states and attention weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..definitions.check import DoesNotApply, Measured, check, expect
from .subject import ModelUnderTest
from .tolerance import compared, rounding


@check("outputs", cause="output_hidden_states or output_attentions that is accepted and leads nowhere")
@torch.no_grad()
def outputs(subject: ModelUnderTest) -> Iterator[Measured]:
    """Hidden states and attention weights are there when they are asked for, of every layer, and weights sum to 1."""
    if "eager" in subject.refused_attention:
        reason = subject.refused_attention["eager"]
        raise DoesNotApply(f"only eager returns attention weights, and the model refuses it: {reason}")
    text = subject.tokens(2)
    model = subject.model(attention="eager")
    plain = model(text, use_cache=False)
    given = model(text, use_cache=False, output_hidden_states=True, output_attentions=True)
    yield expect("neither unasked", plain.get("hidden_states") is None and plain.get("attentions") is None)
    yield compared("the same logits", given.logits, plain.logits)
    layers = model.config.get_text_config().num_hidden_layers
    states, weights = given.get("hidden_states") or (), given.get("attentions") or ()
    yield expect("hidden states of the embeddings and of every layer", len(states) == layers + 1, f"{len(states)}")
    yield expect("attention weights of every layer", len(weights) == layers, f"{len(weights)}")
    for index, one in enumerate(weights):
        where = f"layer {index}"
        if one is None:
            yield expect(f"{where}: attention weights", False, where)
            continue
        yield Measured(f"{where}: they sum to 1", float((one.sum(-1) - 1).abs().max()), rounding(model), where)
        yield Measured(f"{where}: 0 on what follows", float(one.triu(1).abs().max()), where=where)
