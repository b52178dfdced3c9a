"""Caches: a text that is fed piece by piece has the logits that it has at once.

A token at a time and in pieces of unequal size, into the cache that the model makes itself, a growing one and one of
fixed size, across the window where there is one, beside padding on the left, after rows were exchanged as beam search
exchanges them, and after tokens were taken back as assisted generation takes them back.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..parts.caches import CACHE
from .attentions import implementations
from .padding import given_positions, padded, rows_alone
from .subject import LENGTH, ModelUnderTest
from .tolerance import compared, position_of, relative, rounding

SINGLE = (1,) * LENGTH
UNEQUAL = (7, 1, 5, LENGTH - 13)  # below a shrunk window, on it, and across
HALF = LENGTH // 2


@check("cache", cause="positions or a mask that forget what is cached, or a layer that reads another layer's cache")
@torch.no_grad()
def caching(subject: ModelUnderTest) -> Iterator[Measured]:
    """Logits from a cache are those of the whole text at once, however it is cut into pieces."""
    for attention in implementations(subject):
        model = subject.model(attention=attention)
        text = subject.tokens(2)
        whole = model(text, use_cache=False).logits
        if cache_name(model) not in inspect.signature(model.forward).parameters:
            raise DoesNotApply("the model takes no cache")
        if cache_in(model(text[:, :2], use_cache=True)) is None:
            yield expect(f"{attention}, use_cache=True returns a cache", False)
            continue
        none = cache_in(model(text[:, :2], use_cache=False))
        yield expect(f"{attention}, use_cache=False returns none", none is None)
        for name, sizes in (("a token at a time", SINGLE), ("in unequal pieces", UNEQUAL)):
            for kind in ("its own cache", "dynamic", "static"):
                cache = None if kind == "its own cache" else empty(kind, model)
                logits, cache = forward_in_chunks(model, text, sizes, cache)
                what = f"{attention}, {kind}, {name}"
                yield compared(what, logits, whole, rounding(model))
                yield from _lengths(what, model, cache, kind)
        yield from _padded(subject, model, attention)
        yield from _exchanged(subject, model, attention)
        yield from _taken_back(subject, model, attention)


def cache_name(model: Any) -> str:
    """What the model calls its cache."""
    return CACHE if CACHE in inspect.signature(model.forward).parameters else "past_key_values"


def cache_in(outputs: Any) -> Any:
    """The cache among the outputs of a model, by either name."""
    return next((outputs[name] for name in ("cache", "past_key_values") if outputs.get(name) is not None), None)


def empty(kind: str, model: Any, length: int = LENGTH + 4) -> Any:
    """A dynamic cache, or a static one for so many tokens."""
    return StaticCache(model.config, max_cache_len=length) if kind == "static" else DynamicCache(config=model.config)


def forward_in_chunks(
    model: Any, ids: Tensor, sizes: Sequence[int], cache: Any, mask: Tensor | None = None, **rows: Tensor
) -> tuple[Tensor, Any]:
    """The logits of a text that is fed piece by piece, and the cache; `rows` are cut as the tokens are.

    Args:
        model: A causal language model.
        ids: [B, T].
        sizes: Of the pieces; they may be fewer tokens than there are.
        cache: Where they go; None lets the model make one.
        mask: [B, at least T], 0 on padding.
        **rows: [B, T] each.
    """
    logits, at = [], 0
    for size in sizes:
        here, at = slice(at, at + size), at + size
        more: dict[str, Any] = {name: row[:, here] for name, row in rows.items()}
        if mask is not None:
            more["attention_mask"] = mask[:, : mask.shape[1] - ids.shape[1] + at]
        outputs = model(ids[:, here], use_cache=True, **{cache_name(model): cache}, **more)
        cache = cache_in(outputs)
        logits.append(outputs.logits)
    return torch.cat(logits, dim=1), cache


def _lengths(what: str, model: Any, cache: Any, kind: str) -> Iterator[Measured]:
    """A cache knows how many tokens it has seen, and holds as many keys as the next query may see."""
    seen = int(cache.get_seq_length())
    yield expect(f"{what}: it has seen all tokens", seen == LENGTH, f"{seen} of {LENGTH}")
    layers = list(cache.layers)
    count = model.config.get_text_config().num_hidden_layers
    yield expect(f"{what}: it has all layers", len(layers) == count, f"{len(layers)} of {count}")
    for index, layer in enumerate(layers):
        keys = getattr(layer, "keys", None)
        if kind == "static" or keys is None or not isinstance(keys, Tensor):
            continue
        window = getattr(layer, "sliding_window", None)
        due = LENGTH if window is None else min(LENGTH, window - 1)
        held = keys.shape[-2]
        yield expect(f"{what}: layer {index} holds {due} keys", held == due, f"layer {index}: {held} keys")


def _padded(subject: ModelUnderTest, model: Any, attention: str) -> Iterator[Measured]:
    """Padding on the left, while decoding: the first piece holds it all, as a prompt does."""
    ids, mask = padded(subject, "left", (LENGTH, LENGTH - HALF + 2, LENGTH - HALF + 1))
    alone = rows_alone(model, ids, mask)
    sizes = (HALF, *(1,) * (LENGTH - HALF))
    for kind in ("dynamic", "static"):
        for name, rows in given_positions(subject, mask).items():
            logits, _ = forward_in_chunks(model, ids, sizes, empty(kind, model), mask, **rows)
            expected = torch.zeros_like(logits)
            expected[mask.bool()] = alone
            found = torch.where(mask.bool()[..., None], logits, 0.0)
            error = relative(found[mask.bool()], alone)
            what = f"{attention}, {kind}, padding on the left, {name}"
            yield Measured(what, error, rounding(model), position_of(found, expected))


def _exchanged(subject: ModelUnderTest, model: Any, attention: str) -> Iterator[Measured]:
    text, order = subject.tokens(3), torch.tensor([2, 0, 0])
    after = torch.cat((text[order, :HALF], text[:, HALF:]), dim=1)
    expected = model(after, use_cache=False).logits[:, HALF:]
    for kind, method in (
        ("dynamic", "reorder_cache"),
        ("static", "reorder_cache"),
        ("dynamic", "batch_select_indices"),
    ):
        _, cache = forward_in_chunks(model, text[:, :HALF], (HALF - 1, 1), empty(kind, model))
        getattr(cache, method)(order)
        position_ids = torch.arange(HALF, LENGTH).expand(3, -1)
        logits, _ = forward_in_chunks(model, text[:, HALF:], (1, LENGTH - HALF - 1), cache, position_ids=position_ids)
        what = f"{attention}, {kind}, rows exchanged by {method}"
        yield compared(what, logits, expected, rounding(model))


def _taken_back(subject: ModelUnderTest, model: Any, attention: str) -> Iterator[Measured]:
    """Some tokens are fed, taken back, and others fed in their place: each time as many as assistants propose."""
    text, wrong = subject.tokens(2), subject.tokens(2, 3, seed=9)
    cache = empty("dynamic", model)
    windowed = any(getattr(layer, "sliding_window", None) is not None for layer in cache.layers)
    if windowed and not hasattr(cache, "activate_past_recording"):
        return  # older releases cannot take back beyond a window
    expected = model(text, use_cache=False).logits[:, HALF:]
    if hasattr(cache, "activate_past_recording"):
        cache.activate_past_recording()
    _, cache = forward_in_chunks(model, text[:, :HALF], (HALF,), cache)
    cache.crop(0)
    _, cache = forward_in_chunks(model, wrong, (3,), cache)
    cache.crop(-3)
    seen = int(cache.get_seq_length())
    yield expect(f"{attention}, three tokens taken back: as many are left", seen == HALF, f"{seen} of {HALF}")
    logits, _ = forward_in_chunks(model, text[:, HALF:], (LENGTH - HALF,), cache)
    what = f"{attention}, three tokens taken back and others fed"
    yield compared(what, logits, expected, rounding(model))
