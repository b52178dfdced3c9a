"""The oracle is transformers' own Llama (Mistral with a sliding window): same weights, same logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from .tiny import ROPE, TOLERANCE, difference, native, tiny, tokens

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "multi-head, tied": {"num_key_value_heads": None, "tie_word_embeddings": True},
    "one kv head, wide heads": {"num_key_value_heads": 1, "head_dim": 16},
    "window": {"sliding_window": 6},
}
ATTENTION = ["eager", "sdpa"]


def padding(kind: str, rows: int, length: int) -> Tensor | None:
    if kind == "none":
        return None
    mask = torch.ones(rows, length, dtype=torch.long)
    if kind == "left":
        mask[0, :5] = 0
    if kind == "right":
        mask[1, -4:] = 0
    return mask


def in_chunks(model: nn.Module, ids: Tensor, cache: Any, sizes: list[int], mask: Tensor | None = None) -> Tensor:
    """The logits of a sequence that is fed piece by piece."""
    logits, at = [], 0
    for size in sizes:
        seen = mask[:, : at + size] if mask is not None else None
        chunk = ids[:, at : at + size]
        logits.append(model(chunk, attention_mask=seen, past_key_values=cache, use_cache=True).logits)
        at += size
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("pad", ["none", "ones", "left", "right"])
@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_logits_without_cache(options: dict[str, Any], pad: str, attention: str) -> None:
    ours = tiny(attention=attention, **options)
    theirs = native(ours, **options)
    ids, mask = tokens(2, 20), padding(pad, 2, 20)
    real = mask.bool() if mask is not None else torch.ones_like(ids, dtype=torch.bool)
    a = ours(ids, attention_mask=mask, use_cache=False).logits
    b = theirs(ids, attention_mask=mask, use_cache=False).logits
    assert difference(a[real], b[real]) <= TOLERANCE
    assert a.isfinite().all()


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("length", [12, 40, 80])
@pytest.mark.parametrize("kind", ROPE)
@torch.no_grad()
def test_every_rope_type_below_and_beyond_its_length(kind: str, length: int, attention: str) -> None:
    options = {"rope_parameters": ROPE[kind]}
    ours = tiny(attention=attention, **options)
    theirs = native(ours, **options)
    ids = tokens(2, length)
    assert difference(ours(ids).logits, theirs(ids).logits) <= TOLERANCE


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@torch.no_grad()
def test_rope_that_adapts_while_generating(kind: str) -> None:
    options = {"rope_parameters": ROPE[kind], "max_position_embeddings": 16}
    ours = tiny(**options)
    theirs = native(ours, **options)
    ids, sizes = tokens(1, 24), [14, 1, 1, 1, 1, 6]
    a = in_chunks(ours, ids, DynamicCache(config=ours.config), sizes)
    b = in_chunks(theirs, ids, DynamicCache(config=theirs.config), sizes)
    assert difference(a, b) <= TOLERANCE


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("pad", ["none", "left"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_logits_with_a_cache(options: dict[str, Any], kind: str, pad: str, attention: str) -> None:
    ours = tiny(attention=attention, **options)
    theirs = native(ours, **options)
    ids, mask, sizes = tokens(2, 20), padding(pad, 2, 20), [7, 1, 5, 1, 1, 5]
    caches = [
        DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(config=model.config, max_cache_len=24)
        for model in (ours, theirs)
    ]
    a = in_chunks(ours, ids, caches[0], sizes, mask)
    real = mask.bool() if mask is not None else torch.ones_like(ids, dtype=torch.bool)
    whole = theirs(ids, attention_mask=mask, use_cache=False).logits
    assert difference(a[real], whole[real]) <= TOLERANCE
    assert difference(a[real], in_chunks(theirs, ids, caches[1], sizes, mask)[real]) <= TOLERANCE


@torch.no_grad()
def test_the_cache_slides_with_the_window() -> None:
    model = tiny(sliding_window=6)
    cache = model(tokens(1, 20)).past_key_values
    assert all(cache.is_sliding)
    assert cache.layers[0].keys.shape[-2] == 5  # the next query makes it six


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_a_sliding_window_reaches_as_far_as_it_says(attention: str) -> None:
    model = tiny(sliding_window=6, num_hidden_layers=1, attention=attention)
    ids = tokens(1, 12)
    before = model(ids).logits
    changed = ids.clone()
    changed[0, 3] = 3 + (ids[0, 3] - 2) % 94
    moved = (model(changed).logits - before).abs().amax(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.slow
@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_flex_attention(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    ours = tiny(**options)
    theirs = native(ours, **options)
    ours.set_attn_implementation("flex_attention")
    ids, mask = tokens(2, 20), padding("left", 2, 20)
    real = mask.bool()
    a = ours(ids, attention_mask=mask).logits
    assert difference(a[real], theirs(ids, attention_mask=mask).logits[real]) <= TOLERANCE


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_loss_and_gradients(options: dict[str, Any], attention: str) -> None:
    ours = tiny(attention=attention, **options).train()
    theirs = native(ours, **options).train()
    ids = tokens(2, 16)
    labels = ids.masked_fill(torch.arange(16) < 4, -100)
    for more in ({}, {"num_items_in_batch": 11}):
        ours.zero_grad()
        theirs.zero_grad()
        a, b = ours(ids, labels=labels, **more).loss, theirs(ids, labels=labels, **more).loss
        assert abs(a.item() - b.item()) <= TOLERANCE
        a.backward()
        b.backward()
        expected = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            assert parameter.grad is not None
            assert difference(parameter.grad, expected[name].grad) <= 1e-5, name


@pytest.mark.parametrize("attention", ATTENTION)
def test_hidden_states_and_attentions(attention: str) -> None:
    ours = tiny(attention=attention)
    theirs = native(ours)
    ids = tokens(2, 9)
    a = ours(ids, output_hidden_states=True, output_attentions=True)
    b = theirs(ids, output_hidden_states=True, output_attentions=True)
    assert len(a.hidden_states) == 3
    assert len(a.attentions) == len(b.attentions) == (2 if attention == "eager" else 0)
    for mine, other in zip((*a.hidden_states, *a.attentions), (*b.hidden_states, *b.attentions), strict=True):
        assert difference(mine, other) <= TOLERANCE


def test_logits_to_keep_embeddings_as_input_and_tuples() -> None:
    model = tiny()
    ids = tokens(2, 9)
    logits = model(ids).logits
    assert difference(model(ids, logits_to_keep=3).logits, logits[:, -3:]) <= TOLERANCE
    assert difference(model(ids, logits_to_keep=torch.tensor([0, 4])).logits, logits[:, [0, 4]]) <= TOLERANCE
    assert difference(model(inputs_embeds=model.model.embed_tokens(ids)).logits, logits) <= TOLERANCE
    assert difference(model(ids, return_dict=False)[0], logits) <= TOLERANCE
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(ids, inputs_embeds=model.model.embed_tokens(ids))


def test_a_mask_made_by_the_caller_is_used_as_it_is() -> None:
    model = tiny()
    ids = tokens(1, 6)
    everything = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    assert difference(model(ids, attention_mask=everything.tril()).logits, model(ids).logits) <= TOLERANCE
    assert difference(model(ids, attention_mask=everything).logits, model(ids).logits) > 1e-2
