"""Cases and helpers of the parity tests against transformers' own classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

ALL = {"num_key_value_heads": None}
ONE = {"num_key_value_heads": 1}
# A llama with a window is compared with transformers' Mistral.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, multi-head, tied": ("llama", ALL | {"tie_word_embeddings": True}),
    "llama, one kv head, wide heads": ("llama", ONE | {"head_dim": 16}),
    "llama, window": ("llama", {"sliding_window": 6}),
    "mistral": ("mistral", {}),
    "mistral, multi-head, tied": ("mistral", ALL | {"tie_word_embeddings": True}),
    "mistral, one kv head, wide heads, no window": ("mistral", ONE | {"head_dim": 16, "sliding_window": None}),
    "qwen3": ("qwen3", {}),
    "qwen3, multi-head, tied, narrow heads": ("qwen3", ALL | {"tie_word_embeddings": True, "head_dim": None}),
    "qwen3, one kv head, window": ("qwen3", ONE | {"sliding_window": 6}),
    "qwen3, window from the second layer on": ("qwen3", {"sliding_window": 6, "max_window_layers": 1}),
    "smollm3": ("smollm3", {}),
    "smollm3, multi-head, tied, RoPE last": ("smollm3", ALL | {"tie_word_embeddings": True, "no_rope_layers": [0, 1]}),
    "smollm3, one kv head, window without RoPE": ("smollm3", ONE | {"sliding_window": 6}),
    "smollm3, window first": (
        "smollm3",
        {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    ),
}
ATTENTION = ["eager", "sdpa"]
LENGTHS = [[7, 4, 9], [3, 16, 1]]
POSITIONS = torch.tensor([[p for n in row for p in range(n)] for row in LENGTHS])

cases = pytest.mark.parametrize(("definition", "options"), CASES.values(), ids=CASES)
attentions = pytest.mark.parametrize("attention", ATTENTION)


def padding(kind: str, rows: int, length: int) -> Tensor | None:
    if kind == "none":
        return None
    mask = torch.ones(rows, length, dtype=torch.long)
    if kind == "left":
        mask[0, :5] = 0
    if kind == "right":
        mask[1, -4:] = 0
    return mask


def counted(mask: Tensor | None) -> Tensor | None:
    """Return positions that skip padding, as transformers' generate() passes them; Forgather computes them itself."""
    return (mask.cumsum(-1) - 1).clamp(min=0) if mask is not None else None


def at_tokens(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return logits with zeros at padding, which no caller reads."""
    return logits if mask is None else logits[mask.bool()]
