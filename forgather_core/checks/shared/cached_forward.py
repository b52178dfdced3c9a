"""Forward passes in chunks, through a key/value cache."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from ...parts.caches import CACHE
from .model_under_test import LENGTH, ModelUnderTest

SINGLE = (1,) * LENGTH
UNEQUAL = (7, 1, 5, LENGTH - 13)  # shorter than a shrunk window, at its end, and across it


def cache_argument(model: Any) -> str:
    """Return the name of the model's cache argument."""
    return CACHE if CACHE in inspect.signature(model.forward).parameters else "past_key_values"


def cache_in(outputs: Any) -> Any:
    """Return the cache among a model's outputs, under either of its names, or None."""
    return next((outputs[name] for name in ("cache", "past_key_values") if outputs.get(name) is not None), None)


def taken(model: Any, **arguments: Any) -> dict[str, Any]:
    """Return those of some arguments that the model takes: not every model takes position_ids."""
    names = inspect.signature(model.forward).parameters
    return {name: value for name, value in arguments.items() if name in names}


def takes_positions(model: Any) -> bool:
    """Return whether the model takes position_ids."""
    return bool(taken(model, position_ids=None))


def has_positions(subject: ModelUnderTest, model: Any) -> bool:
    """Return whether position_ids are promised: models of Forgather take them."""
    return subject.made_by_forgather or takes_positions(model)


def takes_cache(model: Any) -> bool:
    """Return whether the model takes a cache."""
    return cache_argument(model) in inspect.signature(model.forward).parameters


def takes_static_cache(subject: ModelUnderTest, model: Any) -> bool:
    """Return whether a static cache is promised; transformers marks the classes that support one."""
    return subject.made_by_forgather or bool(getattr(model, "_can_compile_fullgraph", False))


def empty_cache(kind: str, model: Any, length: int = LENGTH + 4) -> Any:
    """Return an empty "dynamic" cache, or a "static" one for `length` tokens."""
    return StaticCache(model.config, max_cache_len=length) if kind == "static" else DynamicCache(config=model.config)


def forward_in_chunks(
    model: Any,
    ids: Tensor,
    sizes: Sequence[int],
    cache: Any,
    mask: Tensor | None = None,
    *,
    embed: bool = False,
    begin: int = 0,
    **rows: Tensor,
) -> tuple[Tensor, Any]:
    """Compute the logits of a text chunk by chunk.

    Args:
        model: A causal language model.
        ids: Token ids [B, T].
        sizes: Chunk sizes; their sum may be less than T - `begin`.
        cache: The cache to fill; None lets the model make one.
        mask: Attention mask [B, at least T], 0 on padding; or [B, 1, T, T], with keys hidden.
        embed: Pass the embeddings of the tokens instead of their ids.
        begin: Number of tokens that the cache already contains.
        **rows: Further arguments [B, T], which are split as the token ids are; those that the model takes.

    Returns:
        The logits [B, sum of sizes, V], and the cache.
    """
    logits, at, given, rows = [], begin, cache, taken(model, **rows)
    for size in sizes:
        here, at = slice(at, at + size), at + size
        more: dict[str, Any] = {name: row[:, here] for name, row in rows.items()}
        if mask is not None and mask.dim() == 4:
            more["attention_mask"] = mask[:, :, here, :at]
        elif mask is not None:
            more["attention_mask"] = mask[:, : mask.shape[1] - ids.shape[1] + at]
        more |= token_arguments(model, ids[:, here], embed=embed)
        outputs = model(use_cache=True, **{cache_argument(model): cache}, **more)
        cache = cache_in(outputs) if given is None else given  # callers may keep one cache over several calls
        logits.append(outputs.logits)
    return torch.cat(logits, dim=1), cache


def token_arguments(model: Any, ids: Tensor, *, embed: bool) -> dict[str, Tensor]:
    """Return the token ids [B, T], or their embeddings [B, T, D], as arguments of a model."""
    return {"inputs_embeds": model.get_input_embeddings()(ids)} if embed else {"input_ids": ids}
