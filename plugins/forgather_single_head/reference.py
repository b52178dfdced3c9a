"""Reference of single_head: one full-width head per layer, with ALiBi.

The papers: transformer-circuits.pub/2021/framework; arXiv:2108.12409 (ALiBi).
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from forgather_core.reference import InitStd, Reference, Weights, attention, fan_in_uniform_std, glu, relu, rms_norm


def logits(weights: Weights, ids: Tensor, *, layers: int, window: int | None = None, eps: float = 1e-5) -> Tensor:
    """Compute the logits: x = embed(ids) sqrt(d); for each layer x += attn(norm(x)), x += mlp(norm(x)); head(norm(x)).

    Args:
        weights: The weights in float64, by name.
        ids: The token ids [T] of one document.
        layers: The number of layers.
        window: The number of keys that a query attends to, itself included; None means no window.
        eps: The eps of the norms.

    Returns:
        The logits [T, V] in float64.
    """
    w = weights
    table = w["model.embed_tokens.weight"]
    x = table[ids] * math.sqrt(table.shape[1])
    for number in range(layers):
        layer = f"model.layers.{number}."
        normed = rms_norm(x, w[layer + "input_layernorm.weight"], eps)
        attn = layer + "self_attn."
        x = x + _attention(
            normed, w[attn + "qk_proj.weight"], w[attn + "ov_proj.weight"], w[attn + "alibi.slopes"][0], window
        )
        normed = rms_norm(x, w[layer + "post_attention_layernorm.weight"], eps)
        x = x + glu(normed, *(w[f"{layer}mlp.{name}_proj.weight"] for name in ("gate", "up", "down")), relu)
    return rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T


def _attention(x: Tensor, w_qk: Tensor, w_ov: Tensor, slope: Tensor, window: int | None) -> Tensor:
    """Compute attention, softmax(x^T W_QK x) W_OV x (section "Attention Heads are Independent").

    Scores are divided by sqrt(d), then -slope (i - j) is added (ALiBi, sec. 3).
    """
    return attention(x @ w_qk.T, x, x @ w_ov.T, window=window, bias=lambda i, j: -slope * (i - j))


def _logits_from_config(weights: Weights, ids: Tensor, config: Any) -> Tensor:
    layers, window, eps = config.num_hidden_layers, config.sliding_window, config.rms_norm_eps
    return logits(weights, ids, layers=layers, window=window, eps=eps)


def init_std(config: Any) -> dict[str, InitStd]:
    """Return the init std: torch's default for linear layers, slopes of 1/2, embeddings of variance 1/d."""
    return {
        "slopes": [0.5],
        "norm": [1.0],
        "embed_tokens": 1 / math.sqrt(config.hidden_size),
        "_proj|lm_head": fan_in_uniform_std,
    }


REFERENCE = Reference(logits=_logits_from_config, init_std=init_std)
