"""The caches of a case, and the operations on them before and between calls.

Shapes: B rows, W columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..shared.cached_forward import cache_argument, empty_cache, forward_in_chunks, token_arguments
from .factors import Case, has_fixed_size
from .layout import Layout

EXTRA = 3  # tokens that are removed from a cropped cache
SPARE = 4  # further tokens for which a static cache has space


def quantized_cache(config: Any) -> Any:
    """Return an empty cache of 8-bit floats.

    Raises:
        ImportError, TypeError, ValueError: This release of transformers has none, or none for this model.
    """
    from transformers import QuantizedCache

    return QuantizedCache("fp8", config)


def cache_arguments(model: Any, case: Case, layout: Layout) -> dict[str, Any]:
    """Return the cache arguments of a call with the whole text."""
    if case["cache"] == "none":
        return {"use_cache": False}
    if case["cache"] == "default":
        return {}
    if case["cache"] == "config-off":
        return {"use_cache": True}
    return {"use_cache": True, cache_argument(model): _cache(model, case, layout)}


def _cache(model: Any, case: Case, layout: Layout) -> Any:
    """Return an empty cache; for the levels `reset` and `cropped`, tokens were added and removed."""
    if case["cache"] == "quantized":
        return quantized_cache(model.config)
    if case["cache"] == "bare":
        return DynamicCache()  # without the configuration, an empty cache has no layers yet
    cache = empty_cache("static" if has_fixed_size(case) else "dynamic", model, layout.ids.shape[1] + SPARE)
    if case["cache"] == "reset":
        _add(model, cache, layout.ids.flip(1), case)
        cache.reset()
    elif case["cache"] == "cropped" and case["chunks"] == "whole":
        _add(model, cache, _extra_tokens(layout), case)
        cache.crop(-EXTRA)
    return cache


@torch.no_grad()
def _add(model: Any, cache: Any, ids: Tensor, case: Case, **more: Tensor) -> None:
    """Add tokens [B, n] to a cache."""
    tokens = token_arguments(model, ids, embed=case["input"] == "embeds")
    model(use_cache=True, **{cache_argument(model): cache}, **tokens, **more)


def _extra_tokens(layout: Layout) -> Tensor:
    """Return tokens [B, EXTRA] that do not belong to a text."""
    first = layout.documents[0].tokens
    return first[torch.arange(EXTRA) % len(first)].expand(len(layout.ids), -1)


def logits_in_chunks(
    model: Any, case: Case, layout: Layout, mask: Tensor | None, positions: dict[str, Any], sizes: Sequence[int]
) -> Tensor:
    """Return the logits [B, W, V] of a text that is passed in chunks, through the cache of the case.

    Args:
        model: The model.
        case: The levels of all factors.
        layout: The texts.
        mask: Attention mask [B, W], 0 on padding; or [B, 1, W, W]; or None.
        positions: The argument position_ids [B, W], if the case passes it.
        sizes: The sizes of the chunks.
    """
    made_by_model = case["cache"] in ("default", "config-off")
    cache = None if made_by_model else _cache(model, case, layout)
    embed = case["input"] == "embeds"
    if case["cache"] not in ("cropped", "reordered") or len(sizes) == 1:
        return forward_in_chunks(model, layout.ids, sizes, cache, mask, embed=embed, **positions)[0]
    count, order = sizes[0], torch.arange(len(layout.ids))
    if case["cache"] == "reordered":
        order = order.roll(1)
    back = order.argsort()
    first_mask = None if mask is None else mask[order]
    rows: dict[str, Any] = {name: row[order] for name, row in positions.items()}
    first, cache = forward_in_chunks(model, layout.ids[order], [count], cache, first_mask, embed=embed, **rows)
    if case["cache"] == "reordered":
        cache.reorder_cache(back)
    else:
        more = {name: row[:, count - 1 : count] + torch.arange(1, EXTRA + 1) for name, row in positions.items()}
        if mask is not None:
            more["attention_mask"] = torch.cat([mask[:, :count], torch.ones_like(_extra_tokens(layout))], dim=1)
        _add(model, cache, _extra_tokens(layout), case, **more)
        cache.crop(-EXTRA)
    later = forward_in_chunks(model, layout.ids, sizes[1:], cache, mask, embed=embed, begin=count, **positions)[0]
    return torch.cat([first[back], later], dim=1)
