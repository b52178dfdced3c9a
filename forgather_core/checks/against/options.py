"""Other values of options: both implementations must read them, and in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...definitions.check import Measured, expect
from ...errors import first_line
from ...filesystem.printable import truncated_list
from ..shared.model_under_test import ModelUnderTest
from ..shared.option_fields import known_options
from ..shared.other_values import alternatives
from ..shared.selection import Selections, same_selections
from ..shared.tolerance import compare, rounding
from .counterpart import Counterpart, different_parameters

_OTHERS = ("drop", "initializer_range")  # without an effect in evaluation, or on given weights
_GENTLE = 2  # times a factor: more amplifies rounding errors


def compare_options(subject: ModelUnderTest, counterpart: Counterpart) -> Iterator[Measured]:
    """Compare both implementations with another value of each known option that the other one accepts."""
    config = subject.text_config.to_dict()
    for option in known_options(subject.config()):
        name, value = option.name, config[option.name]
        if any(word in name for word in _OTHERS):
            continue
        is_factor = isinstance(value, float) and not name.endswith(("_eps", "_epsilon"))
        values = [_GENTLE * value] if is_factor and value else list(alternatives(value, option.type))[:3]
        found = next(filter(None, (_compared(subject, counterpart, name, one) for one in values)), None)
        if found is not None:
            yield found


def _compared(subject: ModelUnderTest, counterpart: Counterpart, name: str, value: Any) -> Measured | None:
    """Compare both with one value; None if the other refuses it."""
    what, changes = f"{name}={value}", subject.no_dropout | {name: value}
    try:
        config = subject.constructed(changes)
        other = counterpart.fresh_model(subject, config)
        _logits(other.eval(), subject)
    except Exception:  # the code of others may raise any exception
        return None
    try:
        model = subject.randomized(subject.fresh_model_of(config)).eval()
        if missing := different_parameters(model, other):
            failure = f"{what}: the parameters are not those of {counterpart.name}: {truncated_list(missing)}"
            return expect(what, False, failure=failure)
        other.load_state_dict(model.state_dict(), strict=False)
        with Selections() as selections:
            expected = _logits(other, subject)
        with same_selections(selections.found):
            found = _logits(model, subject)
    except Exception as error:
        failure = f"{what}: raises {type(error).__name__}, and {counterpart.name} does not: {first_line(error)}"
        return expect(what, False, failure=failure)
    return compare(f"{what}: logits", found, expected, 10 * rounding(model))


@torch.no_grad()
def _logits(model: Any, subject: ModelUnderTest) -> Tensor:
    logits: Tensor = model(subject.tokens(2), use_cache=False).logits
    return logits
