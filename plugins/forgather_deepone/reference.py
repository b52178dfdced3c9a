"""Reference of deepone: the decoder of DeepNet (arXiv:2203.00555) with ALiBi (arXiv:2108.12409)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from forgather_core.reference import (
    InitStd,
    Reference,
    Weights,
    attention_of_heads,
    glu,
    relu,
    rms_norm,
    truncated_normal_std,
)


def logits(
    weights: Weights,
    ids: Tensor,
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int | None = None,
    slopes: list[float] | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Compute the logits: x_{l+1} = LN(alpha x_l + G_l(x_l)), G_l attention or feed-forward; final norm; head.

    Differences from the paper: LN is an RMSNorm, the feed-forward layer is gated, and a final norm is added.

    Args:
        weights: The weights in float64, by name.
        ids: The token ids [T] of one document.
        layers, heads, kv_heads, head_dim: The number of layers, query heads and key/value heads, and the head size.
        window: The number of keys that a query attends to, itself included; None means no window.
        slopes: The ALiBi slopes of every layer; None reads them from the weights.
        eps: The eps of the norms.

    Returns:
        The logits [T, V] in float64.
    """
    w = weights
    alpha = alpha_of(layers)
    x = w["model.embed_tokens.weight"][ids]
    for number in range(layers):
        layer = f"model.layers.{number}."
        layer_slopes = w[layer + "self_attn.alibi.slopes"] if slopes is None else slopes
        q, k, v, o = (w[f"{layer}self_attn.{name}_proj.weight"] for name in "qkvo")
        attended = _attention(x, q, k, v, heads, kv_heads, head_dim, layer_slopes, window) @ o.T
        x = rms_norm(alpha * x + attended, w[layer + "post_attention_layernorm.weight"], eps)
        branch = glu(x, *(w[f"{layer}mlp.{name}_proj.weight"] for name in ("gate", "up", "down")), relu)
        x = rms_norm(alpha * x + branch, w[layer + "post_feedforward_layernorm.weight"], eps)
    return rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T


def _attention(
    x: Tensor,
    w_q: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    heads: int,
    kv_heads: int,
    head_dim: int,
    slopes: Tensor | list[float],
    window: int | None,
) -> Tensor:
    """Compute attention with ALiBi (sec. 3): softmax(q_i K^T / sqrt(head_dim) + m [-(i-1), ..., -2, -1, 0]) V."""
    assert (len(w_q), len(w_k), len(w_v)) == (heads * head_dim, kv_heads * head_dim, kv_heads * head_dim)
    parts = ((x @ w.T).split(head_dim, dim=1) for w in (w_q, w_k, w_v))
    return attention_of_heads(*parts, window=window, bias=lambda head, i, j: -slopes[head] * (i - j))


def alpha_of(layers: int) -> float:
    """Return alpha of DeepNet, fig. 2, decoder-only: (2M)^(1/4), M layers."""
    return math.sqrt(math.sqrt(2 * layers))


def beta_of(layers: int) -> float:
    """Return beta of DeepNet, fig. 2, decoder-only: (8M)^(-1/4)."""
    return 1 / math.sqrt(math.sqrt(8 * layers))


def paper_slopes(heads: int) -> list[float]:
    """Return the slopes of ALiBi, sec. 3: the geometric sequence with 2^(-8/n) as its first value and as its ratio.

    If the number of heads is not a power of two, follow the authors' code: the slopes of the next lower power, then
    every other slope of the next higher one.
    """
    lower = 1
    while 2 * lower <= heads:
        lower *= 2
    if lower == heads:
        sequence = [2 ** (-8 / heads)]
        while len(sequence) < heads:
            sequence.append(sequence[-1] * sequence[0])
        return sequence
    return paper_slopes(lower) + paper_slopes(2 * lower)[::2][: heads - lower]


def half_slopes(heads: int) -> list[float]:
    """Return 2^-(1 + 7i/(H-1)) for the first half of the heads, rounded up, and 0 for the others."""
    slopes = []
    for i in range(heads):
        in_first_half = i < heads / 2
        exponent = 1 + 7 * i / (heads - 1) if heads > 1 else 1
        slopes.append(0.5**exponent if in_first_half else 0.0)
    return slopes


def _logits_from_config(weights: Weights, ids: Tensor, config: Any) -> Tensor:
    return logits(
        weights,
        ids,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        window=config.sliding_window,
        eps=config.rms_norm_eps,
    )


def init_std(config: Any) -> dict[str, InitStd]:
    """Return the init std of DeepNet, fig. 2: Xavier normal with gain beta, or gain 1 for queries and keys.

    The other standard deviations are this definition's choice.
    """
    beta, head = beta_of(config.num_hidden_layers), 1 / math.sqrt(config.hidden_size)
    slopes = paper_slopes if config.alibi_slopes == "paper" else half_slopes
    return {
        "slopes": slopes(config.num_attention_heads),
        "norm": [1.0],
        "(q|k)_proj": _xavier,
        "_proj": lambda outputs, inputs: beta * _xavier(outputs, inputs),
        "embed_tokens": head if config.tie_word_embeddings else 1.0,
        "lm_head": truncated_normal_std(head),
    }


def _xavier(outputs: int, inputs: int) -> float:
    return math.sqrt(2 / (inputs + outputs))


REFERENCE = Reference(logits=_logits_from_config, init_std=init_std)
