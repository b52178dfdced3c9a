"""KV cache: logits computed in chunks through a cache equal those of the whole text.

The cases are: chunks of one token and of unequal sizes, which cross the sliding window if there is one; the model's
default cache, a dynamic and a static one; padding on the left; rows reordered as in beam search; and tokens cropped as
in assisted generation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..model.difference import relative_difference
from .shared.cached_forward import (
    SINGLE,
    UNEQUAL,
    cache_in,
    empty_cache,
    forward_in_chunks,
    takes_cache,
    takes_static_cache,
)
from .shared.implementations import implementations
from .shared.inputs import logits_of_rows, padded_rows, position_arguments
from .shared.layers import calls_of_layers, is_recurrent
from .shared.model_under_test import LENGTH, ModelUnderTest
from .shared.tolerance import compare, position_of_largest, rounding

HALF = LENGTH // 2


@check("kv-cache", cause="positions or a mask that ignore cached tokens, or a layer that reads another layer's cache")
@torch.no_grad()
def kv_cache(subject: ModelUnderTest) -> Iterator[Measured]:
    """Logits computed in chunks through a key/value cache equal those of the whole text at once."""
    for attention in implementations(subject):
        model = subject.randomized_model(attention=attention)
        text = subject.tokens(2)
        whole = model(text, use_cache=False).logits
        if not takes_cache(model):
            raise DoesNotApply("the model has no cache argument")
        if cache_in(model(text[:, :2], use_cache=True)) is None:
            yield expect(f"{attention}, use_cache=True returns a cache", False)
            continue
        none = cache_in(model(text[:, :2], use_cache=False))
        yield expect(f"{attention}, use_cache=False returns no cache", none is None)
        # A loop of layers has keys of its own in each pass.
        layers, calls = subject.text_config.num_hidden_layers, calls_of_layers(model, text)
        layers = sum(calls) if len(calls) == layers else layers
        kinds = ("dynamic", "static") if takes_static_cache(subject, model) else ("dynamic",)
        for name, sizes in (("one token at a time", SINGLE), ("in unequal chunks", UNEQUAL)):
            for kind in ("default", *kinds):
                cache = None if kind == "default" else empty_cache(kind, model)
                logits, cache = forward_in_chunks(model, text, sizes, cache)
                what = f"{attention}, {kind} cache, {name}"
                yield compare(what, logits, whole, rounding(model))
                yield from _check_lengths(what, model, cache, kind, layers)
        ones, sizes = torch.ones_like(text), (HALF, *(1,) * (LENGTH - HALF))
        logits, _ = forward_in_chunks(model, text, sizes, empty_cache("dynamic", model), ones)
        what = f"{attention}, dynamic cache, a mask of ones, a prompt and single tokens"
        yield compare(what, logits, whole, rounding(model))
        yield from _check_padding(subject, model, attention, kinds)
        yield from _check_reordering(subject, model, attention, kinds)
        if not is_recurrent(model):  # a state cannot forget its latest tokens
            yield from _check_cropping(subject, model, attention)


def _check_lengths(what: str, model: Any, cache: Any, kind: str, count: int) -> Iterator[Measured]:
    """Check that a cache of `count` layers has all tokens, and exactly the keys that the next query attends to."""
    if is_recurrent(model):
        return  # states hold no tokens
    seen = int(cache.get_seq_length())
    failure = f"{what}: expected a length of {LENGTH} tokens, got {seen}"
    yield expect(f"{what}: it counts all tokens", seen == LENGTH, failure=failure)
    layers = list(getattr(cache, "self_attention_cache", cache).layers)  # of classes that may have an encoder
    failure = f"{what}: expected {count} layers, got {len(layers)}"
    yield expect(f"{what}: it has all layers", len(layers) == count, failure=failure)
    for index, layer in enumerate(layers):
        keys = getattr(layer, "keys", None)
        if kind == "static" or keys is None or not isinstance(keys, Tensor):
            continue
        window = getattr(layer, "sliding_window", None)
        expected = LENGTH if window is None else min(LENGTH, window - 1)
        found = keys.shape[-2]
        failure = f"{what}: layer {index}: expected {expected} keys, got {found}"
        yield expect(f"{what}: layer {index} holds {expected} keys", found == expected, failure=failure)


def _check_padding(subject: ModelUnderTest, model: Any, attention: str, kinds: Collection[str]) -> Iterator[Measured]:
    """Check decoding with padding on the left, all of which is in the first chunk, as in a prompt."""
    ids, mask = padded_rows(subject, "left", (LENGTH, LENGTH - HALF + 2, LENGTH - HALF + 1))
    alone = logits_of_rows(model, ids, mask)
    sizes = (HALF, *(1,) * (LENGTH - HALF))
    real = mask.bool()[..., None]
    whole = model(ids, attention_mask=mask, use_cache=False).logits
    logits, _ = forward_in_chunks(model, ids, sizes, empty_cache("dynamic", model), mask)
    what = f"{attention}, dynamic cache, padding on the left, no positions, compared with one call"
    tolerance = 2 * rounding(model)  # both sides have the rounding errors of padded rows
    yield compare(what, torch.where(real, logits, 0.0), torch.where(real, whole, 0.0), tolerance)
    for kind in kinds:
        for name, rows in position_arguments(subject, mask).items():
            logits, _ = forward_in_chunks(model, ids, sizes, empty_cache(kind, model), mask, **rows)
            expected = torch.zeros_like(logits)
            expected[mask.bool()] = alone
            found = torch.where(mask.bool()[..., None], logits, 0.0)
            error = relative_difference(found[mask.bool()], alone)
            what = f"{attention}, {kind} cache, padding on the left, {name}"
            yield Measured(what, error, rounding(model), position_of_largest(found, expected))


def _check_reordering(
    subject: ModelUnderTest, model: Any, attention: str, kinds: Collection[str]
) -> Iterator[Measured]:
    text, order = subject.tokens(3), torch.tensor([2, 0, 0])
    after = torch.cat((text[order, :HALF], text[:, HALF:]), dim=1)
    expected = model(after, use_cache=False).logits[:, HALF:]
    for kind, method in (
        ("dynamic", "reorder_cache"),
        ("static", "reorder_cache"),
        ("dynamic", "batch_select_indices"),
    ):
        if kind not in kinds:
            continue
        _, cache = forward_in_chunks(model, text[:, :HALF], (HALF - 1, 1), empty_cache(kind, model))
        try:
            getattr(cache, method)(order)
        except AttributeError:
            if not is_recurrent(model):
                raise
            continue  # the caches of recurrent layers have only the method of beam search
        position_ids = torch.arange(HALF, LENGTH).expand(3, -1)
        logits, _ = forward_in_chunks(model, text[:, HALF:], (1, LENGTH - HALF - 1), cache, position_ids=position_ids)
        what = f"{attention}, {kind} cache, rows reordered by {method}"
        yield compare(what, logits, expected, rounding(model))


def _check_cropping(subject: ModelUnderTest, model: Any, attention: str) -> Iterator[Measured]:
    """Check that three tokens can be cropped and replaced by others, as in assisted generation."""
    text, wrong = subject.tokens(2), subject.tokens(2, 3, seed=9)
    cache = empty_cache("dynamic", model)
    windowed = any(getattr(layer, "sliding_window", None) is not None for layer in cache.layers)
    if windowed and not hasattr(cache, "activate_past_recording"):
        return  # older releases cannot crop a sliding window
    expected = model(text, use_cache=False).logits[:, HALF:]
    if hasattr(cache, "activate_past_recording"):
        cache.activate_past_recording()
    _, cache = forward_in_chunks(model, text[:, :HALF], (HALF,), cache)
    cache.crop(0)
    _, cache = forward_in_chunks(model, wrong, (3,), cache)
    cache.crop(-3)
    seen = int(cache.get_seq_length())
    failure = f"{attention}, three tokens cropped: expected {HALF} tokens, got {seen}"
    yield expect(f"{attention}, three tokens cropped: the others remain", seen == HALF, failure=failure)
    logits, _ = forward_in_chunks(model, text[:, HALF:], (LENGTH - HALF,), cache)
    yield compare(f"{attention}, three tokens cropped and replaced", logits, expected, rounding(model))
