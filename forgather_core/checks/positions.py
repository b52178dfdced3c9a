"""Positions: the order of tokens matters, and what else must be known of positions is known of their kind.

Given as 0, 1, 2, ... they are those that the model counts itself. Two tokens are exchanged in a model of one layer: it
knows order from positions alone, while several layers know it from the causal mask too. Relative positions (RoPE,
ALiBi) are distances: all tokens may stand later. Absolute ones are not.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import Measured, check, expect
from .attentions import implementations
from .subject import LENGTH, ModelUnderTest
from .tolerance import compared, relative, rounding

SHIFT = 5
_RELATIVE = re.compile(r"rotary|rope|alibi", re.IGNORECASE)
_ABSOLUTE = re.compile(r"(^|\.)(wpe|embed_positions?|position_embeddings?)$")
_CLEAR = 10  # times the rounding error: what changes changes by so much at least
_BY_LENGTH = ("dynamic", "longrope")  # their frequencies change beyond a length


@check("positions", cause="positions that are counted but not used, or used where distances are meant")
@torch.no_grad()
def positions(subject: ModelUnderTest) -> Iterator[Measured]:
    """The order of tokens matters; to relative positions all may stand later, to absolute ones not."""
    text, few = subject.tokens(2), _few(subject)
    for attention in implementations(subject):
        model = subject.model(attention=attention)
        logits = model(text).logits
        explicit = model(text, position_ids=torch.arange(LENGTH).expand(2, -1)).logits
        yield compared(f"{attention}, 0, 1, 2, ... given", explicit, logits)
        shallow = subject.model(attention=attention, **_one_layer(subject))
        exchanged = few.clone()
        exchanged[:, -3:-1] = few[:, -3:-1].flip(1)
        change = relative(shallow(exchanged).logits[:, -1], shallow(few).logits[:, -1])
        knows = _clear(change, shallow)
        yield expect(f"{attention}, one layer, two tokens exchanged: the next knows", knows)
        kind, shift = kind_of(model), _shift(subject)
        if kind is None or shift <= 0:
            continue
        later = model(text, position_ids=torch.arange(shift, LENGTH + shift).expand(2, -1)).logits
        what = f"{attention}, {kind} positions, all {shift} later"
        if kind == "relative":
            yield compared(what, later, logits, _angles(model, LENGTH + shift))
        else:
            yield expect(f"{what}: that matters", _clear(relative(later, logits), model))


def _clear(change: float, model: Any) -> bool:
    """Whether logits have changed by more than rounding, to other finite numbers."""
    return _CLEAR * rounding(model) < change < math.inf


def _few(subject: ModelUnderTest) -> Tensor:
    """Rows of so few tokens that each has a say in the last one's logits; no two next to each other are the same."""
    drawn = (subject.tokens(8, 4, seed=seed) for seed in itertools.count())
    return next(text for text in drawn if (text[:, 1:] != text[:, :-1]).all())


def kind_of(model: Any) -> str | None:
    """Whether a model's positions are "relative" or "absolute", by what its modules and options are called."""
    names = [name for name, _ in model.named_modules()]
    types = [type(module).__name__ for module in model.modules()]
    config = model.config.get_text_config()
    if getattr(config, "alibi", False) or getattr(config, "rope_parameters", None):
        return "relative"
    if any(_RELATIVE.search(name) for name in (*names, *types)):
        return "relative"
    return "absolute" if any(_ABSOLUTE.search(name) for name in names) else None


def _one_layer(subject: ModelUnderTest) -> dict[str, Any]:
    kinds = getattr(subject.text_config, "layer_types", None)
    return {"num_hidden_layers": 1} | ({"layer_types": kinds[:1]} if kinds else {})


def _shift(subject: ModelUnderTest) -> int:
    """How much later tokens may stand without the frequencies of RoPE or the end of a table being changed."""
    config = subject.text_config
    rope = getattr(config, "rope_parameters", None) or {}
    limit = getattr(config, "max_position_embeddings", None)
    if rope.get("rope_type") in _BY_LENGTH:
        limit = rope.get("original_max_position_embeddings") or limit
    return SHIFT if limit is None else min(SHIFT, limit - LENGTH)


def _angles(model: Any, length: int) -> float:
    """An angle is position times frequency, at most `length`, rounded to eps of it: so far off are scores of a layer.

    That is for the query and for the key, and the errors of layers add up.
    """
    layers: int = model.config.get_text_config().num_hidden_layers
    return rounding(model) + 2 * layers * length * float(torch.finfo(torch.float32).eps)
