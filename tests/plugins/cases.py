"""Models, caches and rows of the tests over all definitions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from .tiny import CASES, tiny

# Tying has no effect on the masks.
ATTENDING = [case for case in CASES if "tied" not in case]
WINDOWED = [case for case in ATTENDING if "window" in case or case == "mistral"]
EVERYTHING_SEEN = [case for case in ATTENDING if case not in WINDOWED]
SLOPES = [case for case in ATTENDING if "deepone" in case or "single_head" in case]  # those with ALiBi
RELATIVE = [case for case in ATTENDING if "causal_lm" not in case]  # to them a distance matters, and no position
FIXED_WINDOW = "deepone, fixed slopes, window"  # for flash attention alone
FIXED_WINDOW_OPTIONS: dict[str, Any] = {"alibi_trainable": False, "sliding_window": 5}
ATTENTION = ["eager", "sdpa"]


def made(case: str, **options: Any) -> Any:
    """Return the tiny model of a case with further options; its logits, and thus their rounding errors, are small."""
    definition, variant = CASES[case] if case != FIXED_WINDOW else ("deepone", FIXED_WINDOW_OPTIONS)
    model = tiny(definition, **(variant | options))
    if not model.config.tie_word_embeddings:
        model.lm_head.weight.data.mul_(0.25)
    return model


def empty_cache(kind: str, model: nn.Module, length: int = 32) -> Any:
    """Return a dynamic cache, or a static one for the given number of tokens."""
    if kind == "static":
        return StaticCache(config=model.config, max_cache_len=length)
    return DynamicCache(config=model.config)


def in_chunks(
    model: nn.Module, ids: Tensor, cache: Any, sizes: list[int], mask: Tensor | None = None, **rows: Tensor | None
) -> Tensor:
    """Return the logits of a sequence that is passed in chunks; `rows` are split like the tokens."""
    logits, at = [], 0
    for size in sizes:
        here = slice(at, at + size)
        at += size
        given = {name: row[:, here] for name, row in rows.items() if row is not None}
        seen = mask[:, :at] if mask is not None else None
        logits.append(model(ids[:, here], attention_mask=seen, past_key_values=cache, use_cache=True, **given).logits)
    assert at == ids.shape[1]
    return torch.cat(logits, dim=1)
