"""Hidden states: requested hidden states and attention weights are returned for every layer."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check, expect
from .shared.layers import is_recurrent, layers_of
from .shared.model_under_test import ModelUnderTest
from .shared.tolerance import compare, rounding


@check("hidden-states", cause="output_hidden_states or output_attentions that is accepted and has no effect")
@torch.no_grad()
def hidden_states(subject: ModelUnderTest) -> Iterator[Measured]:
    """Requested hidden states and attention weights are returned for every layer, and weights sum to 1."""
    if "eager" in subject.refused_attention:
        reason = subject.refused_attention["eager"]
        raise DoesNotApply(f"only eager returns attention weights, and the model refuses it: {reason}")
    text = subject.tokens(2)
    model = subject.randomized_model(attention="eager")
    plain = model(text, use_cache=False)
    requested = model(text, use_cache=False, output_hidden_states=True, output_attentions=True)
    neither = plain.get("hidden_states") is None and plain.get("attentions") is None
    yield expect("neither is returned by default", neither)
    yield compare("the logits are the same", requested.logits, plain.logits)
    layers = most = model.config.get_text_config().num_hidden_layers
    if not subject.made_by_forgather:  # they may count parts of layers, each with attention, or run layers again
        layers, most = min(layers, len(layers_of(model))), sys.maxsize
    states, weights = requested.get("hidden_states") or (), requested.get("attentions") or ()
    yield expect(
        "hidden states of the embeddings and of every layer are returned",
        layers + 1 <= len(states) <= most + 1,
        failure=f"expected {layers + 1} hidden states, got {len(states)}",
    )
    base = model.base_model(text, use_cache=False)
    last = base.get("last_hidden_state") if hasattr(base, "get") else None
    if states and isinstance(last, Tensor) and states[-1].shape == last.shape:
        yield compare("the last hidden state is that of the base model", states[-1], last)
    recurrent = is_recurrent(model)  # such layers have no attention weights
    mixed = recurrent and "full_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ())
    fewest = int(mixed) if recurrent else layers
    yield expect(
        "attention weights of every layer are returned",
        fewest <= len(weights) <= most,
        failure=f"expected attention weights of {layers} layers, got {len(weights)}",
    )
    with_sinks = any(
        name.endswith("sinks") or (not subject.made_by_forgather and "sink" in name)
        for name, _ in model.named_parameters()
    )
    for index, one in enumerate(weights):
        where = f"layer {index}"
        if one is None and recurrent:
            continue
        if one is None:
            yield expect(f"{where}: attention weights are returned", False, where)
            continue
        excess = one.sum(-1) - 1
        error = excess.max() if with_sinks else excess.abs().max()  # a sink has a part of the weights
        yield Measured(f"{where}: weights sum to 1", float(error), rounding(model), where)
        # In other classes some keys may stand for several tokens.
        if subject.made_by_forgather or one.shape[-1] == text.shape[1]:
            yield Measured(f"{where}: weights of later tokens are 0", float(one.triu(1).abs().max()), where=where)
