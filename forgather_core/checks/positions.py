"""Positions: the order of tokens matters, and positions are absolute or relative, as the architecture implies.

Position ids 0, 1, 2, ... give the same logits as none. Two tokens are exchanged in a model of one layer, in which only
positions show their order; several layers can also derive it from the causal mask. Relative positions (RoPE, ALiBi)
are distances: shifting all of them does not change the logits. Shifting absolute positions does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..model.difference import relative_difference
from .shared.cached_forward import has_positions
from .shared.depth import of_depth
from .shared.implementations import implementations
from .shared.model_under_test import LENGTH, ModelUnderTest
from .shared.position_encoding import kind_of, last_position, switching_length
from .shared.tolerance import compare, rounding

SHIFT = 5
_CLEAR = 10  # minimum change, in units of the rounding error


@check("positions", cause="positions that are computed and not used, or absolute where they must be relative")
@torch.no_grad()
def positions(subject: ModelUnderTest) -> Iterator[Measured]:
    """The order of tokens matters; shifting all positions changes the logits only if positions are absolute."""
    text, short = subject.tokens(2), _short_rows(subject)
    for attention in implementations(subject):
        model = subject.randomized_model(attention=attention)
        logits = model(text).logits
        if has_positions(subject, model):
            explicit = model(text, position_ids=torch.arange(LENGTH).expand(2, -1)).logits
            yield compare(f"{attention}, position_ids 0, 1, 2, ...", explicit, logits)
        with suppress(DoesNotApply):  # the depth of some classes is not an option
            what = f"{attention}, one layer, two tokens exchanged: the logits of the next change"
            # Some layers of others have no positions, and the first may be one of them.
            first = range(1 if subject.made_by_forgather else subject.text_config.num_hidden_layers)
            yield expect(what, any(_order_matters(_with_one_layer(subject, attention, i), short) for i in first))
        kind, shift = kind_of(model), _shift(subject)
        if kind is None or shift <= 0 or not has_positions(subject, model):
            continue
        if kind == "relative" and not subject.made_by_forgather:  # they may have other positions, too
            continue
        later = model(text, position_ids=torch.arange(shift, LENGTH + shift).expand(2, -1)).logits
        what = f"{attention}, {kind} positions, shifted by {shift}"
        if kind == "relative":
            yield compare(what, later, logits, _rounding_of_angles(model, LENGTH + shift))
        else:
            yield expect(f"{what}: logits change", _is_clear(relative_difference(later, logits), model))


def _order_matters(model: Any, text: Tensor) -> bool:
    """Return whether the logits of the last token change if the two tokens before it are exchanged."""
    exchanged = text.clone()
    exchanged[:, -3:-1] = text[:, -3:-1].flip(1)
    change = relative_difference(*(model(one, use_cache=False).logits[:, -1] for one in (exchanged, text)))
    return _is_clear(change, model)


def _is_clear(change: float, model: Any) -> bool:
    """Return whether logits have changed by more than rounding, to finite numbers."""
    return _CLEAR * rounding(model) < change < math.inf


def _short_rows(subject: ModelUnderTest) -> Tensor:
    """Return rows of so few tokens that each affects the last logits; neighbours differ."""
    drawn = (subject.tokens(8, 4, seed=seed) for seed in itertools.count())
    return next(text for text in drawn if (text[:, 1:] != text[:, :-1]).all())


def _with_one_layer(subject: ModelUnderTest, attention: str, first: int) -> Any:
    try:
        model = subject.fresh_model_of(of_depth(subject, 1, first), attention=attention)
    except ArithmeticError:
        if subject.made_by_forgather:
            raise
        raise DoesNotApply("one layer cannot be initialized") from None  # as of RWKV, which divides by depth - 1
    return subject.randomized(model).eval()


def _shift(subject: ModelUnderTest) -> int:
    """Return the shift of positions that changes no frequencies of RoPE and does not exceed a table."""
    config = subject.text_config
    limit = switching_length(config) or last_position(subject)
    return SHIFT if limit is None else min(SHIFT, limit - LENGTH)


def _rounding_of_angles(model: Any, length: int) -> float:
    """Return the tolerance for rounded angles, for queries and keys of all layers.

    An angle is position times frequency, at most `length`, and is rounded to eps of it; the scores of a layer have
    the same error.
    """
    layers: int = model.config.get_text_config().num_hidden_layers
    return rounding(model) + 2 * layers * length * float(torch.finfo(torch.float32).eps)
