"""Reference of causal_lm: the decoder of "Attention Is All You Need" (arXiv:1706.03762) without an encoder."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from forgather_core.reference import (
    InitStd,
    Reference,
    Weights,
    attention_of_heads,
    fan_in_uniform_std,
    layer_norm,
    layer_weights,
    relu,
)


def logits(
    weights: Weights, ids: Tensor, *, layers: int, heads: int, window: int | None = None, eps: float = 1e-5
) -> Tensor:
    """Compute the logits: embeddings with positions, sub-layers followed by norms (sec. 3.1, fig. 1), output layer.

    Args:
        weights: The weights in float64, by name.
        ids: The token ids [T] of one document.
        layers, heads: The number of layers, and of attention heads.
        window: The number of keys that a query attends to, itself included; None means no window.
        eps: The eps of the norms.

    Returns:
        The logits [T, V] in float64.
    """
    w = weights
    x = torch.stack([embedding(w["model.embed_tokens.weight"], int(token), at) for at, token in enumerate(ids)])
    for number in range(layers):
        layer = layer_weights(w, number)
        x = _norm(x + _attention(x, layer, heads, window), layer, "post_attention_layernorm", eps)
        x = _norm(x + feed_forward(x, layer), layer, "post_feedforward_layernorm", eps)
    return x @ w["lm_head.weight"].T


def embedding(table: Tensor, token: int, position: int) -> Tensor:
    """Return the input of the first layer [d]: the embedding times sqrt(d) (sec. 3.4) plus the position encoding.

    Sec. 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos.
    """
    d = table.shape[1]
    encoding = torch.empty(d, dtype=torch.float64)
    for i in range(d // 2):
        angle = position / 10000 ** (2 * i / d)
        encoding[2 * i] = math.sin(angle)
        encoding[2 * i + 1] = math.cos(angle)
    return table[token] * math.sqrt(d) + encoding


def _attention(x: Tensor, layer: Weights, heads: int, window: int | None) -> Tensor:
    """Compute multi-head attention (sec. 3.2): Concat(head_1, ...) W^O, head_i = softmax(Q_i K_i^T / sqrt(d_k)) V_i."""
    queries, keys, values = (x @ layer[f"self_attn.{name}_proj.weight"].T for name in "qkv")
    parts = (part.chunk(heads, dim=1) for part in (queries, keys, values))
    return attention_of_heads(*parts, window=window) @ layer["self_attn.o_proj.weight"].T


def feed_forward(x: Tensor, layer: Weights) -> Tensor:
    """Compute the feed-forward layer (eq. 2): max(0, x W_1 + b_1) W_2 + b_2."""
    inner = x @ layer["mlp.up_proj.weight"].T + layer["mlp.up_proj.bias"]
    return relu(inner) @ layer["mlp.down_proj.weight"].T + layer["mlp.down_proj.bias"]


def _norm(x: Tensor, layer: Weights, name: str, eps: float) -> Tensor:
    return layer_norm(x, layer[f"{name}.weight"], layer[f"{name}.bias"], eps)


def _logits_from_config(weights: Weights, ids: Tensor, config: Any) -> Tensor:
    layers, heads, eps = config.num_hidden_layers, config.num_attention_heads, config.layer_norm_eps
    return logits(weights, ids, layers=layers, heads=heads, window=config.sliding_window, eps=eps)


def init_std(config: Any) -> dict[str, InitStd]:
    """Return the init std: torch's default for linear layers, biases of 0, embeddings of variance 1/d."""
    return {
        "bias": [0.0],
        "norm": [1.0],
        "embed_tokens": 1 / math.sqrt(config.hidden_size),
        "_proj|lm_head": fan_in_uniform_std,
    }


REFERENCE = Reference(logits=_logits_from_config, init_std=init_std)
