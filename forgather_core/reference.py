"""Building blocks of references: independent implementations of the equations of a definition.

`verify` compares a model with the `Reference` of its definition. A reference is short and slow, and shares no code with
the model: it computes in float64, in the order of the equations in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .deprecated import keep_old_names, renamed_members


class DoesNotApply(Exception):  # noqa: N818 - not an error, but a result
    """A check does not apply to a model, or a reference lacks one of its features; the text is the reason."""


Weights = Mapping[str, Tensor]
InitStd = float | list[float] | Callable[[int, int], float]

keep_old_names(
    __name__,
    {
        "Spread": "InitStd",
        "gated": "glu",
        "llama_spreads": "llama_init_std",
        "rotated": "apply_rope",
        "sees": "visible_keys",
        "uniform_by_inputs": "fan_in_uniform_std",
        "without_tails": "truncated_normal_std",
    },
)


@renamed_members(spreads="init_std")
@dataclass(frozen=True, kw_only=True)
class Reference:
    """The equations and the initialization of a definition.

    Args:
        logits: Takes the float64 weights by name, the token ids [T] of one document, and the configuration. Returns the
            logits [T, V]. It may raise `DoesNotApply`. None if the reference has no equations.
        init_std: Takes the configuration. Returns the initialization by name pattern; the first pattern that matches
            the name of a parameter applies. A value is the standard deviation of random values with mean 0, a function
            that returns it for the last two sizes (rows, columns), or a list of the exact values: one for all elements
            or one for each. None if the reference has no initialization.
    """

    logits: Callable[[Weights, Tensor, Any], Tensor] | None = None
    init_std: Callable[[Any], Mapping[str, InitStd]] | None = None


def float64(state_dict: Weights, *, trainable: bool = False) -> dict[str, Tensor]:
    """Return float64 copies of the weights, with `requires_grad` if `trainable`."""
    return {name: value.detach().double().requires_grad_(trainable) for name, value in state_dict.items()}


def layer_weights(weights: Weights, number: int) -> dict[str, Tensor]:
    """Return the weights of one layer, by their names within the layer."""
    prefix = f"model.layers.{number}."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def surprise(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the negative log-likelihood -log p(token t+1 | tokens up to t) of each token except the first.

    Args:
        logits: [T, V].
        ids: Token ids, [T].

    Returns:
        [T - 1].
    """
    losses = [logits.new_zeros(0)]
    for row, following in zip(logits[:-1], ids[1:], strict=True):
        highest = row.max()
        losses.append((highest + (row - highest).exp().sum().log() - row[following])[None])
    return torch.cat(losses)


def softmax(scores: list[Tensor]) -> list[Tensor]:
    """Return exp(s_j) / sum_k exp(s_k) for a list of scalar tensors."""
    highest = max(score.item() for score in scores)
    exponentials = [(score - highest).exp() for score in scores]
    total = torch.stack(exponentials).sum()
    return [exponential / total for exponential in exponentials]


def visible_keys(query: int, window: int | None) -> range:
    """Return the positions that a query attends to: its own and earlier ones, `window` in total (None: all)."""
    return range(0 if window is None else max(0, query - window + 1), query + 1)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm (arXiv:1910.07467, eq. 4) of each row of x [T, d]: a_i / RMS(a) * g_i, RMS(a) = sqrt(mean(a^2) + eps)."""
    rows = [row / ((row * row).sum() / len(row) + eps).sqrt() * weight for row in x]
    return torch.stack(rows)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm (arXiv:1607.06450, sec. 3) of each row of x [T, d]: (x - mean) / sqrt(var + eps) * weight + bias."""
    rows = []
    for row in x:
        centred = row - row.sum() / len(row)
        variance = (centred * centred).sum() / len(row)
        rows.append(centred / (variance + eps).sqrt() * weight + bias)
    return torch.stack(rows)


def attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    window: int | None = None,
    bias: Callable[[int, int], Tensor | float] = lambda i, j: 0.0,
) -> Tensor:
    """Causal attention of one head (arXiv:1706.03762, eq. 1): softmax(q_i k_j / sqrt(d) + bias(i, j)) v_j.

    Args:
        queries, keys: [T, d].
        values: [T, d_v].
        window: Number of positions that a query attends to, including its own; None for all.
        bias: Returns the bias of a score from the positions of its query and key.

    Returns:
        [T, d_v].
    """
    rows = []
    for i in range(len(queries)):
        visible = visible_keys(i, window)
        weights = softmax([queries[i] @ keys[j] / math.sqrt(len(keys[j])) + bias(i, j) for j in visible])
        rows.append(torch.stack([weight * values[j] for weight, j in zip(weights, visible, strict=True)]).sum(0))
    return torch.stack(rows)


def attention_of_heads(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    window: int | None = None,
    bias: Callable[[int, int, int], Tensor | float] = lambda head, i, j: 0.0,
) -> Tensor:
    """Concatenate the attention of all heads; consecutive heads may share keys and values (arXiv:2305.13245, sec. 2.2).

    Args:
        queries, keys, values: One tensor [T, d] for each head; the number of queries is a multiple of that of keys.
        window: Number of positions that a query attends to, including its own; None for all.
        bias: Returns the bias of a score from the head and the positions of its query and key.

    Returns:
        [T, heads * d].
    """
    group = len(queries) // len(keys)
    return torch.cat(
        [
            attention(query, keys[n // group], values[n // group], window=window, bias=partial(bias, n))
            for n, query in enumerate(queries)
        ],
        dim=1,
    )


def rope_theta(config: Any) -> float:
    """Return the base of RoPE's angles.

    Raises:
        DoesNotApply: RoPE is scaled, which `apply_rope` does not support.
    """
    kind = config.rope_parameters["rope_type"]
    if kind != "default":
        raise DoesNotApply(f"the reference supports rope_type 'default' only; got '{kind}'")
    return float(config.rope_parameters["rope_theta"])


def apply_rope(x: Tensor, theta: float) -> Tensor:
    """Apply RoPE to x [T, d]: rotate the pairs of row t by the angles t theta^(-2i/d) (arXiv:2104.09864, eq. 15).

    Channel i is paired with channel i + d/2, as in transformers; the paper pairs neighbouring channels.
    """
    rows, half = [], x.shape[1] // 2
    for t, row in enumerate(x):
        angles = torch.tensor([t * theta ** (-i / half) for i in range(half)], dtype=torch.float64)
        first, second = row[:half], row[half:]
        rows.append(first * angles.cos() - second * angles.sin())
        rows.append(second * angles.cos() + first * angles.sin())
    return torch.cat(rows).view(x.shape)


def relu(x: Tensor) -> Tensor:
    """ReLU: max(0, x)."""
    return x * (x > 0)


def silu(x: Tensor) -> Tensor:
    """SiLU (arXiv:1606.08415, sec. 2): x / (1 + e^-x)."""
    return x * torch.sigmoid(x)  # its gradient is finite everywhere


def gelu(x: Tensor) -> Tensor:
    """GELU (arXiv:1606.08415, sec. 2): x P(X <= x) for a normal X."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def glu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Gated feed-forward (arXiv:2002.05202, eq. 6) of x [T, d]: (activation(x W) * (x V)) W_2, weights [out, in]."""
    return (activation(x @ gate.T) * (x @ up.T)) @ down.T


def llama_logits(weights: Weights, ids: Tensor, config: Any) -> Tensor:
    """Return the logits [T, V] of Llama and similar models for token ids [T].

    Each layer adds attention(norm(h)) and then mlp(norm(h)) to h; the logits are norm(h) H^T for the head H.
    The model has RoPE, grouped-query attention and a gated feed-forward with SiLU. Queries and keys are normalized per
    head if there are weights for it (arXiv:2505.09388, sec. 2). `layer_types`, if present, lists the layers with a
    sliding window, and `no_rope_layers` those without RoPE (arXiv:2501.18795).

    Raises:
        DoesNotApply: RoPE is scaled.
    """
    eps, kinds = config.rms_norm_eps, getattr(config, "layer_types", None)
    rotary = getattr(config, "no_rope_layers", None)
    x = weights["model.embed_tokens.weight"][ids]
    for number in range(config.num_hidden_layers):
        layer = layer_weights(weights, number)
        slides = kinds is None or kinds[number] == "sliding_attention"
        normed = rms_norm(x, layer["input_layernorm.weight"], eps)
        window = config.sliding_window if slides else None
        theta = rope_theta(config) if rotary is None or rotary[number] else None
        x = x + _grouped_attention(normed, layer, config, window=window, theta=theta)
        normed = rms_norm(x, layer["post_attention_layernorm.weight"], eps)
        gate, up, down = (layer[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        x = x + glu(normed, gate, up, down, silu)
    return rms_norm(x, weights["model.norm.weight"], eps) @ weights["lm_head.weight"].T


def _grouped_attention(x: Tensor, layer: Weights, config: Any, *, window: int | None, theta: float | None) -> Tensor:
    eps = config.rms_norm_eps
    heads: dict[str, list[Tensor]] = {}
    for name in "qkv":
        projected = x @ layer[f"self_attn.{name}_proj.weight"].T
        scale = layer.get(f"self_attn.{name}_norm.weight")
        split = projected.chunk(projected.shape[1] // config.head_dim, dim=1)
        normed = [head if scale is None else rms_norm(head, scale, eps) for head in split]
        heads[name] = normed if name == "v" or theta is None else [apply_rope(head, theta) for head in normed]
    attended = attention_of_heads(heads["q"], heads["k"], heads["v"], window=window)
    return attended @ layer["self_attn.o_proj.weight"].T


def fan_in_uniform_std(outputs: int, inputs: int) -> float:
    """Return the std of the uniform distribution on +-1/sqrt(inputs), the default of torch's linear layers."""
    del outputs
    return 1 / math.sqrt(3 * inputs)


def truncated_normal_std(std: float, cut: float = 3.0) -> float:
    """Return the std of a normal distribution that is truncated at `cut` standard deviations."""
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    return std * math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))


def llama_init_std(config: Any) -> dict[str, InitStd]:
    """Return the init std of llama and similar definitions; that of the residual projections decreases with depth.

    Args:
        config: A configuration with hidden_size, num_hidden_layers and tie_word_embeddings.
    """
    head = 1 / math.sqrt(config.hidden_size)
    return {
        "norm": [1.0],
        "embed_tokens": head if config.tie_word_embeddings else 1.0,
        "(q|k|v|gate|up)_proj": truncated_normal_std(0.02),
        "(o|down)_proj": truncated_normal_std(0.02 / math.sqrt(2 * config.num_hidden_layers)),
        "lm_head": truncated_normal_std(head),
    }
