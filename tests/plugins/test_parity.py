"""Parity with transformers' own Llama, Mistral and Qwen3: equal logits, losses and gradients for equal weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from .cases import in_chunks
from .native import NATIVE, native
from .parity import POSITIONS, at_tokens, attentions, cases, counted, padding
from .tiny import ROPE, TOLERANCE, difference, tiny, tokens


@attentions
@pytest.mark.parametrize("pad", ["none", "ones", "left", "right"])
@cases
@torch.no_grad()
def test_logits_without_cache(definition: str, options: dict[str, Any], pad: str, attention: str) -> None:
    own_model = tiny(definition, attention=attention, **options)
    native_model = native(definition, own_model, **options)
    ids, mask = tokens(2, 20), padding(pad, 2, 20)
    a = own_model(ids, attention_mask=mask, use_cache=False).logits
    b = native_model(ids, attention_mask=mask, position_ids=counted(mask), use_cache=False).logits
    assert difference(at_tokens(a, mask), at_tokens(b, mask)) <= TOLERANCE
    assert a.isfinite().all()


@attentions
@cases
@torch.no_grad()
def test_packed_documents(definition: str, options: dict[str, Any], attention: str) -> None:
    own_model = tiny(definition, attention=attention, **options)
    native_model = native(definition, own_model, **options)
    ids = tokens(2, 20)
    # transformers separates documents only in this way: with a mask, or with a cache, they attend to each other.
    a, b = (model(ids, position_ids=POSITIONS, use_cache=False).logits for model in (own_model, native_model))
    assert difference(a, b) <= TOLERANCE
    assert difference(b, native_model(ids, use_cache=False).logits) > 0.1


@pytest.mark.parametrize("length", [12, 40, 80])
@pytest.mark.parametrize("kind", ROPE)
@pytest.mark.parametrize("definition", NATIVE)
@torch.no_grad()
def test_every_rope_type_below_and_beyond_its_length(definition: str, kind: str, length: int) -> None:
    options = {"rope_parameters": ROPE[kind], "head_dim": 8}
    own_model = tiny(definition, **options)
    native_model = native(definition, own_model, **options)
    ids = tokens(2, length)
    assert difference(own_model(ids).logits, native_model(ids).logits) <= TOLERANCE


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@pytest.mark.parametrize("definition", NATIVE)
@torch.no_grad()
def test_rope_that_adapts_while_generating(definition: str, kind: str) -> None:
    options = {"rope_parameters": ROPE[kind], "max_position_embeddings": 16, "head_dim": 8}
    own_model = tiny(definition, **options)
    native_model = native(definition, own_model, **options)
    ids, sizes = tokens(1, 24), [14, 1, 1, 1, 1, 6]
    a, b = (in_chunks(model, ids, DynamicCache(config=model.config), sizes) for model in (own_model, native_model))
    assert difference(a, b) <= TOLERANCE


@pytest.mark.few(44)
@attentions
@pytest.mark.parametrize("pad", ["none", "left"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@cases
@torch.no_grad()
def test_logits_with_a_cache(definition: str, options: dict[str, Any], kind: str, pad: str, attention: str) -> None:
    own_model = tiny(definition, attention=attention, **options)
    native_model = native(definition, own_model, **options)
    ids, mask, sizes = tokens(2, 20), padding(pad, 2, 20), [7, 1, 5, 1, 1, 5]
    caches = [
        DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(config=model.config, max_cache_len=24)
        for model in (own_model, native_model)
    ]
    a = in_chunks(own_model, ids, caches[0], sizes, mask)
    b = in_chunks(native_model, ids, caches[1], sizes, mask, position_ids=counted(mask))
    assert difference(at_tokens(a, mask), at_tokens(b, mask)) <= TOLERANCE
    whole = native_model(ids, attention_mask=mask, position_ids=counted(mask), use_cache=False).logits
    assert difference(at_tokens(a, mask), at_tokens(whole, mask)) <= 2 * TOLERANCE  # sums in another order


@attentions
@cases
def test_loss_and_the_gradient_of_every_parameter(definition: str, options: dict[str, Any], attention: str) -> None:
    own_model = tiny(definition, attention=attention, **options).train()
    native_model = native(definition, own_model, **options).train()
    ids = tokens(2, 16)
    labels = ids.masked_fill(torch.arange(16) < 4, -100)
    for more in ({}, {"num_items_in_batch": 11}):
        own_model.zero_grad()
        native_model.zero_grad()
        a, b = own_model(ids, labels=labels, **more).loss, native_model(ids, labels=labels, **more).loss
        assert abs(a.item() - b.item()) <= TOLERANCE
        a.backward()
        b.backward()
        expected = dict(native_model.named_parameters())
        assert dict(own_model.named_parameters()).keys() == expected.keys()
        for name, parameter in own_model.named_parameters():
            assert parameter.grad.abs().max() > 1e-4, name
            assert difference(parameter.grad, expected[name].grad) <= TOLERANCE, name


@attentions
@pytest.mark.parametrize("definition", NATIVE)
def test_hidden_states_and_attentions(definition: str, attention: str) -> None:
    own_model = tiny(definition, attention=attention)
    native_model = native(definition, own_model)
    ids = tokens(2, 9)
    a, b = (model(ids, output_hidden_states=True, output_attentions=True) for model in (own_model, native_model))
    assert len(a.hidden_states) == 3
    assert len(a.attentions) == len(b.attentions) == (2 if attention == "eager" else 0)
    for mine, other in zip((*a.hidden_states, *a.attentions), (*b.hidden_states, *b.attentions), strict=True):
        assert difference(mine, other) <= TOLERANCE
