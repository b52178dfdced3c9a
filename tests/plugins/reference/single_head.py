"""One head a layer, as wide as the model (transformer-circuits.pub/2021/framework), with ALiBi (arXiv:2108.12409)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import Weights, relu_glu, rms_norm, sees, softmax


def logits(weights: Weights, ids: Tensor, *, layers: int, window: int | None = None, eps: float = 1e-5) -> Tensor:
    """x = embed(ids) sqrt(d); for each layer x += attention(norm(x)), x += feed_forward(norm(x)); head(norm(x))."""
    w = weights
    table = w["model.embed_tokens.weight"]
    x = table[ids] * math.sqrt(table.shape[1])
    for number in range(layers):
        layer = f"model.layers.{number}."
        normed = rms_norm(x, w[layer + "input_layernorm.weight"], eps)
        attn = layer + "self_attn."
        x = x + attention(
            normed, w[attn + "qk_proj.weight"], w[attn + "ov_proj.weight"], w[attn + "alibi.slopes"][0], window
        )
        normed = rms_norm(x, w[layer + "post_attention_layernorm.weight"], eps)
        x = x + relu_glu(normed, *(w[f"{layer}mlp.{name}_proj.weight"] for name in ("gate", "up", "down")))
    return rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T


def attention(x: Tensor, w_qk: Tensor, w_ov: Tensor, slope: Tensor, window: int | None) -> Tensor:
    """The attention pattern is softmax(x^T W_QK x), what it moves is W_OV x ("Attention Heads are Independent").

    Scores are divided by sqrt(d), and ALiBi's -slope (i - j) is added (sec. 3).
    """
    rows = []
    for i in range(len(x)):
        scores = [(w_qk @ x[i]) @ x[j] / math.sqrt(x.shape[1]) - slope * (i - j) for j in sees(i, window)]
        rows.append(sum(p * (w_ov @ x[j]) for p, j in zip(softmax(scores), sees(i, window), strict=True)))
    return torch.stack(rows)
