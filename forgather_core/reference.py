"""What a definition is to compute, written a second time: slow, short, and of no line of a model.

`verify` holds a model to the `Reference` that its definition names. The functions here are what references are made of:
sums and products of float64, in the order in which a paper has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor


class DoesNotApply(Exception):  # noqa: N818 - it is an answer, and no error
    """The model does not make this promise, or a reference has not what it has; the text says why."""


Weights = Mapping[str, Tensor]
InitStd = float | list[float] | Callable[[int, int], float]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a model of a definition is to compute, and how its weights begin.

    Args:
        logits: Of weights by name [...], float64; the token ids of one document [T]; and the configuration: [T, V].
            It may raise `DoesNotApply`. None where nothing is said of it.
        spreads: Of the configuration: a pattern, of which the first that is found in a parameter's name counts, and the
            standard deviation of what is drawn for it around 0; or its function of the last two sizes (rows, columns);
            or the values, one for all or one for each. None where nothing is promised.
    """

    logits: Callable[[Weights, Tensor, Any], Tensor] | None = None
    spreads: Callable[[Any], Mapping[str, InitStd]] | None = None


def float64(state_dict: Weights, *, trainable: bool = False) -> dict[str, Tensor]:
    """Copies of the weights in float64; `trainable` to take gradients of them."""
    return {name: value.detach().double().requires_grad_(trainable) for name, value in state_dict.items()}


def layer_weights(weights: Weights, number: int) -> dict[str, Tensor]:
    """Those of a layer, by their names within it."""
    prefix = f"model.layers.{number}."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def surprise(logits: Tensor, ids: Tensor) -> Tensor:
    """-log p(token t+1 | tokens up to t) for each token but the first, [T - 1]."""
    losses = [logits.new_zeros(0)]
    for row, following in zip(logits[:-1], ids[1:], strict=True):
        highest = row.max()
        losses.append((highest + (row - highest).exp().sum().log() - row[following])[None])
    return torch.cat(losses)


def softmax(scores: list[Tensor]) -> list[Tensor]:
    """exp(s_j) / sum_k exp(s_k), of scalars."""
    highest = max(score.item() for score in scores)
    exponentials = [(score - highest).exp() for score in scores]
    total = torch.stack(exponentials).sum()
    return [exponential / total for exponential in exponentials]


def visible_keys(query: int, window: int | None) -> range:
    """The keys that a query sees: itself and what is before it, `window` in all."""
    return range(0 if window is None else max(0, query - window + 1), query + 1)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """arXiv:1910.07467, eq. 4, for each row: a_i / RMS(a) * g_i, RMS(a) = sqrt(mean(a^2)); eps below the root."""
    rows = [row / ((row * row).sum() / len(row) + eps).sqrt() * weight for row in x]
    return torch.stack(rows)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """arXiv:1607.06450, sec. 3: (x - mean) / sqrt(variance + eps) * gain + bias, for each row."""
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
    """arXiv:1706.03762, eq. 1, of one head: softmax(q_i k_j / sqrt(d) + bias(i, j)) v_j, over the keys that i sees.

    Args:
        queries, keys: [T, d].
        values: [T, any].
        window: How many keys a query sees.
        bias: Of a query's place and a key's.
    """
    rows = []
    for i in range(len(queries)):
        seen = visible_keys(i, window)
        weights = softmax([queries[i] @ keys[j] / math.sqrt(len(keys[j])) + bias(i, j) for j in seen])
        rows.append(torch.stack([weight * values[j] for weight, j in zip(weights, seen, strict=True)]).sum(0))
    return torch.stack(rows)


def attention_of_heads(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    window: int | None = None,
    bias: Callable[[int, int, int], Tensor | float] = lambda head, i, j: 0.0,
) -> Tensor:
    """What all heads give, side by side. Groups of neighbours share keys and values (arXiv:2305.13245, sec. 2.2).

    Args:
        queries, keys, values: For each head [T, d]; of keys and values there may be fewer.
        window: How many keys a query sees.
        bias: Of a head, a query's place and a key's.
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
    """The base of RoPE's angles.

    Raises:
        DoesNotApply: They are scaled, which `rotated` is not.
    """
    if config.rope_parameters["rope_type"] != "default":
        raise DoesNotApply("the reference has no other rope_type than 'default'")
    return float(config.rope_parameters["rope_theta"])


def apply_rope(x: Tensor, theta: float) -> Tensor:
    """arXiv:2104.09864, eq. 15: the pairs of row t turned by the angles t theta^(-2i/d).

    The pair of channel i is channel i + d/2, as transformers has it; in the paper it is the next one.
    """
    rows, half = [], x.shape[1] // 2
    for t, row in enumerate(x):
        angles = torch.tensor([t * theta ** (-i / half) for i in range(half)], dtype=torch.float64)
        first, second = row[:half], row[half:]
        rows.append(first * angles.cos() - second * angles.sin())
        rows.append(second * angles.cos() + first * angles.sin())
    return torch.cat(rows).view(x.shape)


def relu(x: Tensor) -> Tensor:
    """max(0, x)."""
    return x * (x > 0)


def silu(x: Tensor) -> Tensor:
    """x / (1 + e^-x) (arXiv:1606.08415, sec. 2)."""
    return x * torch.sigmoid(x)  # whose gradient is finite everywhere


def gelu(x: Tensor) -> Tensor:
    """x P(X <= x) for a normal X (arXiv:1606.08415, sec. 2)."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def glu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """arXiv:2002.05202, eq. 6: (activation(x W) * (x V)) W_2, here with matrices [out, in]."""
    return (activation(x @ gate.T) * (x @ up.T)) @ down.T


def llama_logits(weights: Weights, ids: Tensor, config: Any) -> Tensor:
    """Llama and what is built like it: h += attention(norm(h)), h += mlp(norm(h)); norm(h) H^T. [T] -> [T, V].

    RoPE, grouped heads, a gated layer with SiLU; queries and keys are normed by head where
    there are weights for it (arXiv:2505.09388, sec. 2); layers see all or a window, as layer_types says where it is.

    Raises:
        DoesNotApply: RoPE is scaled.
    """
    eps, kinds = config.rms_norm_eps, getattr(config, "layer_types", None)
    x = weights["model.embed_tokens.weight"][ids]
    for number in range(config.num_hidden_layers):
        layer = layer_weights(weights, number)
        slides = kinds is None or kinds[number] == "sliding_attention"
        normed = rms_norm(x, layer["input_layernorm.weight"], eps)
        x = x + _grouped_attention(normed, layer, config, config.sliding_window if slides else None)
        normed = rms_norm(x, layer["post_attention_layernorm.weight"], eps)
        gate, up, down = (layer[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        x = x + glu(normed, gate, up, down, silu)
    return rms_norm(x, weights["model.norm.weight"], eps) @ weights["lm_head.weight"].T


def _grouped_attention(x: Tensor, layer: Weights, config: Any, window: int | None) -> Tensor:
    theta, eps = rope_theta(config), config.rms_norm_eps
    found: dict[str, list[Tensor]] = {}
    for name in "qkv":
        every = x @ layer[f"self_attn.{name}_proj.weight"].T
        heads = every.chunk(every.shape[1] // config.head_dim, dim=1)
        scale = layer.get(f"self_attn.{name}_norm.weight")
        normed = [head if scale is None else rms_norm(head, scale, eps) for head in heads]
        found[name] = normed if name == "v" else [apply_rope(head, theta) for head in normed]
    mixed = attention_of_heads(found["q"], found["k"], found["v"], window=window)
    return mixed @ layer["self_attn.o_proj.weight"].T


def fan_in_uniform_std(outputs: int, inputs: int) -> float:
    """The deviation of numbers drawn evenly within 1/sqrt(inputs), as torch's linear layers draw them."""
    del outputs
    return 1 / math.sqrt(3 * inputs)


def truncated_normal_std(std: float, cut: float = 3.0) -> float:
    """The deviation that a normal distribution has left when what lies beyond `cut` deviations is drawn again."""
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    return std * math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))


def llama_init_std(config: Any) -> dict[str, InitStd]:
    """Those of llama and of definitions built like it: what writes to the residual stream is smaller by the depth.

    Args:
        config: Of which hidden_size, num_hidden_layers and tie_word_embeddings are read.
    """
    head = 1 / math.sqrt(config.hidden_size)
    return {
        "norm": [1.0],
        "embed_tokens": head if config.tie_word_embeddings else 1.0,
        "(q|k|v|gate|up)_proj": truncated_normal_std(0.02),
        "(o|down)_proj": truncated_normal_std(0.02 / math.sqrt(2 * config.num_hidden_layers)),
        "lm_head": truncated_normal_std(head),
    }
