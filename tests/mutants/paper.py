"""Checks of this repository's own, of what `verify` cannot know: what a definition is meant to be.

llama, mistral and qwen3 have a class of transformers for their equal, and `native-twin` compares them with it. For
causal_lm, deepone and single_head there are the references of `tests/plugins/reference`: float64, of no line of ours.
Initial weights are held by `verify` to the definition's table, and here to the formulas of the READMEs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from forgather_core.checks import DoesNotApply, Measured, Subject, check
from forgather_core.checks.attentions import implementations
from forgather_core.checks.tolerance import compared, gradients_compared, gradients_of, rounding

from ..plugins.reference import deepone, float64, single_head, surprise, transformer

LENGTH = 12  # twice a shrunk window
EPS = 0.1  # so large that where it stands matters
SIGMAS = 6  # of the deviation of a deviation
DENSITY = math.exp(-(3**2) / 2) / math.sqrt(2 * math.pi)  # of the unit normal at 3
CUT = math.sqrt(1 - 2 * 3 * DENSITY / math.erf(3 / math.sqrt(2)))  # deviation of a unit normal without its tails at 3


@check("paper", cause="an equation that was read wrongly")
def paper(subject: Subject) -> Iterator[Measured]:
    """Logits and gradients are those of a reference written from the papers' equations."""
    text = subject.tokens(1, LENGTH)
    for eps in (None, EPS):
        for attention in implementations(subject):
            config = subject.config()
            name = "layer_norm_eps" if hasattr(config, "layer_norm_eps") else "rms_norm_eps"
            changes: dict[str, Any] = {} if eps is None else {name: eps}
            model = subject.model(attention=attention, **changes, **subject.no_dropout)
            what = attention if eps is None else f"{attention}, {name} {eps}"
            weights = float64(model.state_dict(), trainable=True)
            if model.lm_head.weight is model.model.embed_tokens.weight:
                weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
            expected = _logits(weights, text[0], model.config)
            outputs = model(text, labels=text)
            logits = outputs.logits[0]
            yield compared(f"{what}: logits", logits, expected, rounding(model), ("position",))
            surprise(expected, text[0]).mean().backward()  # type: ignore[no-untyped-call]
            outputs.loss.backward()
            found = gradients_of(model)
            right = {n: grad for n, weight in weights.items() if n in found and (grad := weight.grad) is not None}
            yield gradients_compared(f"{what}: gradients", found, right, rounding(model))


def _logits(weights: dict[str, Tensor], ids: Tensor, config: Any) -> Tensor:
    layers, window = config.num_hidden_layers, config.sliding_window
    if config.model_type == "forgather_single_head":
        return single_head.logits(weights, ids, layers=layers, window=window, eps=config.rms_norm_eps)
    if config.model_type == "forgather_causal_lm":
        heads, eps = config.num_attention_heads, config.layer_norm_eps
        return transformer.logits(weights, ids, layers=layers, heads=heads, window=window, eps=eps)
    if config.model_type == "forgather_deepone":
        return deepone.logits(
            weights,
            ids,
            layers=layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            window=window,
            eps=config.rms_norm_eps,
        )
    raise DoesNotApply("there is no reference of this model")


@check("promised-weights", cause="a table of initial weights that is not what its definition says of it")
def promised_weights(subject: Subject) -> Iterator[Measured]:
    """Initial weights have the spread that the README of their definition promises."""
    model = subject.initial()
    kind = str(model.config.model_type).removeprefix("forgather_")
    if kind not in PROMISED:
        raise DoesNotApply("there is no such promise of this model")
    promised = PROMISED[kind](model.config)
    for name, parameter in model.named_parameters():
        expected = next(value for pattern, value in promised.items() if re.search(pattern, name))
        values = parameter.detach().double()
        if isinstance(expected, list):
            error = float((values - torch.tensor(expected, dtype=torch.float64)).abs().max())
            yield Measured(f"{name}: {expected}", error, 1e-6, name)
            continue
        std = expected(*parameter.shape) if callable(expected) else expected
        drawn = values[values.abs().sum(-1) > 0]  # without the row of padding
        error = abs(float(drawn.square().mean().sqrt()) / std - 1)
        yield Measured(f"{name}: std {std:.4g}", error, SIGMAS / math.sqrt(2 * drawn.numel()), name)


def _uniform(fan_out: int, fan_in: int) -> float:
    """Within 1/sqrt(fan_in)."""
    return 1 / math.sqrt(3 * fan_in)


def _llama(config: Any) -> dict[str, Any]:
    small, head = 0.02 / math.sqrt(2 * config.num_hidden_layers), 1 / math.sqrt(config.hidden_size)
    return {
        "norm": [1.0],
        "embed_tokens": head if config.tie_word_embeddings else 1.0,
        "(q|k|v|up)_proj": 0.02 * CUT,
        "(o|gate|down)_proj": small * CUT,
        "lm_head": head * CUT,
    }


def _causal_lm(config: Any) -> dict[str, Any]:
    embedding = 1 / math.sqrt(config.hidden_size)
    return {"bias": [0.0], "norm": [1.0], "embed_tokens": embedding, "_proj|lm_head": _uniform}


def _single_head(config: Any) -> dict[str, Any]:
    return {"slopes": [0.5], "norm": [1.0], "embed_tokens": 1 / math.sqrt(config.hidden_size), "_proj": _uniform}


def _deepone(config: Any) -> dict[str, Any]:
    beta, head = deepone.beta_of(config.num_hidden_layers), 1 / math.sqrt(config.hidden_size)
    slopes = deepone.paper_slopes if config.alibi_slopes == "paper" else deepone.half_slopes
    return {
        "slopes": slopes(config.num_attention_heads),
        "norm": [1.0],
        "(q|k)_proj": lambda fan_out, fan_in: math.sqrt(2 / (fan_in + fan_out)),
        "_proj": lambda fan_out, fan_in: beta * math.sqrt(2 / (fan_in + fan_out)),
        "embed_tokens": head if config.tie_word_embeddings else 1.0,
        "lm_head": head * CUT,
    }


PROMISED = {
    "llama": _llama,
    "mistral": _llama,
    "qwen3": _llama,
    "causal_lm": _causal_lm,
    "deepone": _deepone,
    "single_head": _single_head,
}
