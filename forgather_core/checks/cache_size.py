"""Cache size: a dynamic cache holds the tokens that later queries need, in the dtype of the model, and nothing else.

A layer with a sliding window of W holds W - 1 tokens at most, as `DynamicSlidingWindowLayer` of transformers does: the
next query is the last token of its own window. That class concatenates the cached tokens and those of a call, and keeps
a slice. The slice is a view, so its memory is that of the concatenated tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check, expect
from .shared.cached_forward import SINGLE, UNEQUAL, cache_argument, cache_in, empty_cache, takes_cache
from .shared.layers import windows_of
from .shared.model_under_test import LENGTH, ModelUnderTest
from .shared.reloaded import reloaded

ROWS = 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WAYS = {"the text at once": (LENGTH,), "one token at a time": SINGLE, "unequal chunks": UNEQUAL}
# Options of models whose cached heads are not those of `num_key_value_heads` and `head_dim`.
_OTHER_HEADS = ("kv_lora_rank", "v_head_dim", "global_head_dim", "multi_query", "new_decoder_architecture")
_COUNTED = ("full_attention", "sliding_attention")


@check(
    "cache-size",
    cause="a cache made without the configuration, keys in another dtype, or keys cached once per query head",
)
@torch.no_grad()
def cache_size(subject: ModelUnderTest) -> Iterator[Measured]:
    """A cache holds all tokens, or those of the window, with the model's key/value heads and dtype, and no more."""
    model = subject.randomized_model()
    if not (subject.made_by_forgather or takes_cache(model)):
        raise DoesNotApply("the model has no cache argument")
    text, windows, heads = subject.tokens(ROWS), windows_of(subject), cached_heads(subject.text_config)
    found = cache_in(model(text, use_cache=False))
    yield expect("use_cache=False", found is None, failure="use_cache=False returns a cache")
    for dtype_name, dtype in DTYPES.items():
        if dtype != torch.float32:
            model = model.to(dtype) if subject.made_by_forgather else reloaded(subject, model, dtype)
        for way, sizes in WAYS.items():
            totals = {}
            for kind in ("passed", "default"):
                what = f"{dtype_name}, {kind} cache, {way}"
                cache = empty_cache("dynamic", model) if kind == "passed" else None
                promise = Promise(windows, heads, dtype)
                yield from _fill(what, model, text, cache, sizes, promise)
                totals[kind] = promise.total
            yield Measured(
                f"{dtype_name}, {way}: the default cache is as large as a cache that is passed",
                abs(totals["default"] - totals["passed"]),
                failure=f"{dtype_name}, {way}: the default cache of the model holds {totals['default']} bytes, "
                f"and a cache made from the configuration holds {totals['passed']} bytes",
            )


def cached_heads(config: Any) -> int | None:
    """Return the number of cached elements of a token's keys in one layer; None if the configuration does not state it.

    Args:
        config: The text configuration.
    """
    if config.to_dict().get("per_layer_config"):
        return None  # the sizes of heads differ by layer
    heads = getattr(config, "num_attention_heads", None)
    size = getattr(config, "head_dim", None)
    if size is None and heads and getattr(config, "hidden_size", None):
        size = config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if any(getattr(config, name, None) for name in _OTHER_HEADS):
        return None
    return kv_heads * size if isinstance(kv_heads, int) and isinstance(size, int) else None


@dataclass
class Promise:
    """The content that a cache must have.

    Args:
        windows: The sliding window of each layer, or None.
        elements: Elements of the keys of one token in one layer; None skips the comparison of bytes.
        dtype: The dtype of the model.
        total: Bytes of keys and values in the layers that `problem` has checked.
    """

    windows: tuple[int | None, ...]
    elements: int | None
    dtype: torch.dtype
    total: int = 0

    def problem(self, layer: Any, window: int | None, length: int, latest: int) -> str | None:
        """Return the problem of a layer of a cache, or None, and add its bytes to `total`.

        Args:
            layer: A layer of the cache.
            window: Its sliding window.
            length: The number of tokens so far.
            latest: The number of tokens of the latest call.
        """
        tokens = length if window is None else min(length, window - 1)
        keys, values = layer.keys, layer.values
        for name, tensor in (("keys", keys), ("values", values)):
            if tensor.shape[-2] != tokens:
                why = "" if window is None else f" with a window of {window}"
                return f"after {length} tokens{why}, expected {name} of {tokens} tokens, got {tensor.shape[-2]}"
            if tensor.dtype != self.dtype:
                return f"expected {name} in {self.dtype}, the dtype of the model, got {tensor.dtype}"
        held = [one for one in vars(layer).values() if isinstance(one, Tensor) and one.is_floating_point()]
        size = sum(one.numel() * one.element_size() for one in held)
        stored = sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in held}.values())
        self.total += size
        if not tokens:
            return None
        per_token = size // tokens
        if self.elements is not None:
            per_token = 2 * ROWS * self.elements * self.dtype.itemsize
            if size != per_token * tokens:
                return f"after {length} tokens, expected {per_token * tokens} bytes for {tokens} tokens, got {size}"
        most = tokens if window is None else min(length, window - 1 + latest)
        if stored > per_token * most:
            return f"it holds views of larger tensors: expected at most {per_token * most} bytes, got {stored}"
        return None


def _fill(
    what: str, model: Any, text: Tensor, cache: Any, sizes: Sequence[int], promise: Promise
) -> Iterator[Measured]:
    """Fill a cache in chunks, and yield the first deviation after any chunk, or one case that holds."""
    at = 0
    for size in sizes:
        outputs = model(text[:, at : at + size], use_cache=True, **{cache_argument(model): cache})
        cache, at = cache_in(outputs), at + size
        if cache is None:
            yield expect(what, False, failure=f"{what}: use_cache=True returns no cache")
            return
        promise.total = 0
        kinds = getattr(model.config.get_text_config(), "layer_types", None) or _COUNTED[:1] * len(promise.windows)
        layers = getattr(cache, "self_attention_cache", cache).layers  # of classes that may have an encoder
        for index, (layer, window, kind) in enumerate(zip(layers, promise.windows, kinds, strict=False)):
            if kind not in _COUNTED or window == 1 or not isinstance(getattr(layer, "keys", None), Tensor):
                continue  # transformers' layer with a window of 1 keeps all tokens
            if problem := promise.problem(layer, window, at, size):
                yield expect(what, False, f"layer {index}", failure=f"{what}: {problem}")
                return
    yield expect(what, True)
