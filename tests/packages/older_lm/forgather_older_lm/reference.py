"""What older_lm is to compute, a second time: in float64, from the equations, and of no line of the model.

`verify` holds the model to it (`--check equations,spreads`). Change it as well when the model is to be another one.
"""

import math
from typing import Any

from torch import Tensor

from forgather_core.reference import (
    Reference,
    Spread,
    Weights,
    attention_of_heads,
    gated,
    gelu,
    layer_weights,
    relu,
    rms_norm,
    rope_theta,
    rotated,
    silu,
    without_tails,
)

ACTIVATIONS = {"gelu": gelu, "relu": relu, "silu": silu}


def logits(weights: Weights, ids: Tensor, config: Any) -> Tensor:
    """h = E[ids]; for each layer h += s attention(norm(h)), h += s mlp(norm(h)); norm(h) H^T. [T] -> [T, V]."""
    s, eps = config.residual_scale, config.rms_norm_eps
    x = weights["model.embed_tokens.weight"][ids]
    for number in range(config.num_hidden_layers):
        layer = layer_weights(weights, number)
        x = x + s * attended(rms_norm(x, layer["input_layernorm.weight"], eps), layer, config)
        normed = rms_norm(x, layer["post_attention_layernorm.weight"], eps)
        mlp = (layer[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        x = x + s * gated(normed, *mlp, ACTIVATIONS[config.activation])
    return rms_norm(x, weights["model.norm.weight"], eps) @ weights["lm_head.weight"].T


def attended(x: Tensor, layer: Weights, config: Any) -> Tensor:
    """Each head of queries, with the keys and values of its group, rotated; their results side by side, projected."""
    q, k, v, o = (layer[f"self_attn.{name}_proj.weight"] for name in "qkvo")
    queries, keys, values = ((x @ w.T).split(config.head_dim, dim=1) for w in (q, k, v))
    theta = rope_theta(config)
    queries, keys = ([rotated(head, theta) for head in every] for every in (queries, keys))
    return attention_of_heads(queries, keys, values, window=config.sliding_window) @ o.T


def spreads(config: Any) -> dict[str, Spread]:
    """Of initial weights: a pattern, and the values, or the standard deviation, or its function of (rows, columns)."""
    head = 1 / math.sqrt(config.hidden_size)
    return {
        "norm": [1.0],
        "_proj": lambda outputs, inputs: math.sqrt(2 / (outputs + inputs)),
        "embed_tokens": head if config.tie_word_embeddings else 1.0,
        "lm_head": without_tails(head),
    }


REFERENCE = Reference(logits=logits, spreads=spreads)
