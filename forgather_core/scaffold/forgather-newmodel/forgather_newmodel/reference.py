"""Reference of newmodel: its equations in float64 and its initialization, without any code of the model.

`verify --checks reference-parity,init-std` compares the model with it. Change both when you change the model.
"""

import math
from typing import Any

from torch import Tensor

from forgather_core.reference import (
    InitStd,
    Reference,
    Weights,
    apply_rope,
    attention_of_heads,
    gelu,
    glu,
    layer_weights,
    relu,
    rms_norm,
    rope_theta,
    silu,
    truncated_normal_std,
)

ACTIVATIONS = {"gelu": gelu, "relu": relu, "silu": silu}


def logits(weights: Weights, ids: Tensor, config: Any) -> Tensor:
    """Compute h = E[ids]; for each layer h += s attention(norm(h)), h += s mlp(norm(h)); norm(h) H^T. [T] -> [T, V]."""
    s, eps = config.residual_scale, config.rms_norm_eps
    x = weights["model.embed_tokens.weight"][ids]
    for number in range(config.num_hidden_layers):
        layer = layer_weights(weights, number)
        x = x + s * attended(rms_norm(x, layer["input_layernorm.weight"], eps), layer, config)
        normed = rms_norm(x, layer["post_attention_layernorm.weight"], eps)
        mlp = (layer[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        x = x + s * glu(normed, *mlp, ACTIVATIONS[config.activation])
    return rms_norm(x, weights["model.norm.weight"], eps) @ weights["lm_head.weight"].T


def attended(x: Tensor, layer: Weights, config: Any) -> Tensor:
    """Compute attention with RoPE: each query head uses the keys and values of its group; outputs are projected."""
    q, k, v, o = (layer[f"self_attn.{name}_proj.weight"] for name in "qkvo")
    queries, keys, values = ((x @ w.T).split(config.head_dim, dim=1) for w in (q, k, v))
    theta = rope_theta(config)
    queries, keys = ([apply_rope(head, theta) for head in every] for every in (queries, keys))
    return attention_of_heads(queries, keys, values, window=config.sliding_window) @ o.T


def init_std(config: Any) -> dict[str, InitStd]:
    """Return for each name pattern the exact values, the standard deviation, or a function of (rows, columns)."""
    head = 1 / math.sqrt(config.hidden_size)
    return {
        "norm": [1.0],
        "_proj": lambda outputs, inputs: math.sqrt(2 / (outputs + inputs)),
        "embed_tokens": head if config.tie_word_embeddings else 1.0,
        "lm_head": truncated_normal_std(head),
    }


REFERENCE = Reference(logits=logits, init_std=init_std)
