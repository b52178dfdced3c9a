"""Parity with transformers: bfloat16, names of weights, windows, masks from the caller, and all combinations."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import DynamicCache, StaticCache

from forgather_core.checks.shared.implementations import uncompiled
from forgather_core.parts.caches import CACHE

from .cases import in_chunks
from .native import NATIVE, native
from .parity import ALL, ONE, POSITIONS, at_tokens, attentions, cases, counted, padding
from .tiny import DEFINITIONS, ROPE, TOLERANCE, difference, tiny, tokens


def bfloat16_steps(a: Tensor, b: Tensor) -> float:
    """Return the distance of two tensors, in steps of bfloat16's 8 significant bits.

    One step is 2^-8 of the larger of two numbers; of numbers below the tensor's root mean square, 2^-8 of that.
    """
    a, b = a.double(), b.double()
    scale = torch.maximum(torch.maximum(a.abs(), b.abs()), b.square().mean().sqrt())
    return ((a - b).abs() / scale).max().item() * 2**8


@attentions
@pytest.mark.parametrize("pad", ["none", "left"])
@cases
@torch.no_grad()
def test_bfloat16_to_the_last_bit(definition: str, options: dict[str, Any], pad: str, attention: str) -> None:
    """Check equality where operations and order are the same, instead of a distance of two steps."""
    own_model = tiny(definition, attention=attention, **options).to(torch.bfloat16)
    native_model = native(definition, own_model, dtype=torch.bfloat16, **options)
    assert native_model.model.rotary_emb.inv_freq.dtype == torch.float32
    ids, mask = tokens(4, 48), padding(pad, 4, 48)
    a = at_tokens(own_model(ids, attention_mask=mask).logits, mask)
    b = at_tokens(native_model(ids, attention_mask=mask, position_ids=counted(mask)).logits, mask)
    assert a.dtype == b.dtype == torch.bfloat16
    assert bfloat16_steps(a, b) <= 2
    assert torch.equal(a, b)


def test_steps_of_bfloat16_are_counted_right() -> None:
    a = torch.tensor([1.0, 2.0, 0.0])
    scale = (5 / 3) ** 0.5
    assert bfloat16_steps(a, a) == 0
    assert bfloat16_steps(a + torch.tensor([0, 0, 3 * 2**-8 * scale]), a) == pytest.approx(3, rel=1e-6)
    assert bfloat16_steps(torch.tensor([1.0, 2.0 * (1 - 2**-8), 0.0]), a) == pytest.approx(1)


@pytest.mark.parametrize("definition", NATIVE)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_names_of_weights_are_those_of_transformers(definition: str, tied: bool) -> None:
    own_model = tiny(definition, tie_word_embeddings=tied)
    native_model = native(definition, own_model, tie_word_embeddings=tied)
    assert list(own_model.state_dict()) == list(native_model.state_dict())
    assert {n: p.shape for n, p in own_model.named_parameters()} == {
        n: p.shape for n, p in native_model.named_parameters()
    }


@cases
@torch.no_grad()
def test_a_checkpoint_of_transformers_loads_as_it_is(tmp_path: Path, definition: str, options: dict[str, Any]) -> None:
    native_model = native(definition, tiny(definition, **options), **options)
    native_model.save_pretrained(tmp_path)
    own_model = DEFINITIONS[definition].model.from_pretrained(tmp_path)
    ids = tokens(2, 20)
    assert difference(own_model(ids).logits, native_model(ids).logits) <= TOLERANCE
    assert type(native_model).__module__.startswith("transformers.models.")


@attentions
@pytest.mark.parametrize("definition", DEFINITIONS)
@torch.no_grad()
def test_a_sliding_window_has_the_stated_length(definition: str, attention: str) -> None:
    every = {"layer_types": ["sliding_attention"]} if definition == "smollm3" else {}
    model = tiny(definition, sliding_window=6, num_hidden_layers=1, attention=attention, **every)
    ids = tokens(1, 12)
    changed = ids.clone()
    changed[0, 3] = 3 + (ids[0, 3] - 2) % 94
    moved = (model(changed).logits - model(ids).logits).abs().amax(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("definition", DEFINITIONS)
@torch.no_grad()
def test_the_cache_slides_with_the_window(definition: str) -> None:
    every = {"layer_types": ["sliding_attention"] * 2} if definition == "smollm3" else {}
    cache = tiny(definition, sliding_window=6, **every)(tokens(1, 20))[CACHE]
    assert all(cache.is_sliding)
    assert cache.layers[0].keys.shape[-2] == 5  # the next query makes it six


@torch.no_grad()
def test_the_cache_of_each_layer_slides_with_its_own_window() -> None:
    cache = tiny("qwen3", sliding_window=6, max_window_layers=1)(tokens(1, 20))[CACHE]
    assert [layer.keys.shape[-2] for layer in cache.layers] == [20, 5]


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_logits_to_keep_embeddings_as_input_and_tuples(definition: str) -> None:
    model = tiny(definition)
    ids = tokens(2, 9)
    logits = model(ids).logits
    assert difference(model(ids, logits_to_keep=3).logits, logits[:, -3:]) <= TOLERANCE
    assert difference(model(ids, logits_to_keep=torch.tensor([0, 4])).logits, logits[:, [0, 4]]) <= TOLERANCE
    assert difference(model(inputs_embeds=model.model.embed_tokens(ids)).logits, logits) <= TOLERANCE
    assert difference(model(ids, return_dict=False)[0], logits) <= TOLERANCE
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(ids, inputs_embeds=model.model.embed_tokens(ids))


@attentions
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_mask_made_by_the_caller_is_used_as_it_is(definition: str, attention: str) -> None:
    model = tiny(definition, attention=attention, sliding_window=None)
    ids = tokens(1, 6)
    seen = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    masks = [seen.tril(), seen]
    if attention == "eager":  # it adds its mask
        masks = [torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min) for mask in masks]
    causal, everything = (model(ids, attention_mask=mask).logits for mask in masks)
    assert difference(causal, model(ids).logits) <= TOLERANCE
    assert difference(everything, model(ids).logits) > 1e-2


HEADS = {"grouped": {"num_key_value_heads": 2}, "multi-head": ALL, "one kv head, wide": ONE | {"head_dim": 16}}
WINDOWS = {
    **{f"{d}, {w}": (d, {"sliding_window": w}) for d in NATIVE for w in (None, 5, 21)},  # the rows are 20 tokens long
    "qwen3, 5 from the second layer on": ("qwen3", {"sliding_window": 5, "max_window_layers": 1}),
}


@pytest.mark.few(0, slow=80)
@attentions
@pytest.mark.parametrize("kind", ROPE)
@pytest.mark.parametrize(("definition", "window"), WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
def test_the_whole_grid(
    definition: str, window: dict[str, Any], heads: dict[str, Any], tied: bool, kind: str, attention: str
) -> None:
    """Compare logits with all kinds of padding, packing and caches, and gradients."""
    options = {"head_dim": 8, "tie_word_embeddings": tied} | window | heads
    rope = dict(ROPE[kind])
    for name in rope.keys() & {"short_factor", "long_factor"}:
        rope[name] = rope[name] * (options["head_dim"] // 8)
    options["rope_parameters"] = rope
    own_model = tiny(definition, attention=attention, **options)
    native_model = native(definition, own_model, **options)
    ids = tokens(2, 20)
    with torch.no_grad():
        for pad in ("none", "ones", "left", "right"):
            mask = padding(pad, 2, 20)
            a = own_model(ids, attention_mask=mask, use_cache=False).logits
            b = native_model(ids, attention_mask=mask, position_ids=counted(mask), use_cache=False).logits
            assert difference(at_tokens(a, mask), at_tokens(b, mask)) <= TOLERANCE, pad
        a, b = (model(ids, position_ids=POSITIONS, use_cache=False).logits for model in (own_model, native_model))
        assert difference(a, b) <= TOLERANCE
        for make, pad in itertools.product((DynamicCache, StaticCache), ("none", "left")):
            caches = [
                make(config=model.config, **({"max_cache_len": 24} if make is StaticCache else {}))
                for model in (own_model, native_model)
            ]
            mask = padding(pad, 2, 20)
            a = in_chunks(own_model, ids, caches[0], [7, 1, 5, 1, 1, 5], mask)
            b = in_chunks(native_model, ids, caches[1], [7, 1, 5, 1, 1, 5], mask, position_ids=counted(mask))
            assert difference(at_tokens(a, mask), at_tokens(b, mask)) <= TOLERANCE, (make, pad)
    losses = [model.train()(ids, labels=ids).loss for model in (own_model, native_model)]
    assert abs(losses[0].item() - losses[1].item()) <= TOLERANCE
    for loss in losses:
        loss.backward()
    for (name, mine), other in zip(own_model.named_parameters(), native_model.parameters(), strict=True):
        assert difference(mine.grad, other.grad) <= TOLERANCE, name


@pytest.mark.few(0, slow=2)
@pytest.mark.parametrize("pad", ["none", "left"])
@cases
@torch.no_grad()
def test_flex_attention(definition: str, options: dict[str, Any], pad: str) -> None:
    own_model = tiny(definition, **options)
    native_model = native(definition, own_model, **options)
    own_model.set_attn_implementation("flex_attention")
    ids, mask = tokens(2, 20), padding(pad, 2, 20)
    with uncompiled():
        a = at_tokens(own_model(ids, attention_mask=mask).logits, mask)
    b = at_tokens(native_model(ids, attention_mask=mask, position_ids=counted(mask)).logits, mask)
    assert difference(a, b) <= TOLERANCE


def test_the_oracle_is_transformers() -> None:
    expected = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen3": "Qwen3ForCausalLM"}
    for definition, name in expected.items():
        assert type(native(definition, tiny(definition))) is getattr(transformers, name)
    window = {"sliding_window": 6}
    assert type(native("llama", tiny("llama", **window), **window)) is transformers.MistralForCausalLM
