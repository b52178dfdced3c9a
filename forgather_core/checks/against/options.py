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
from ..shared.tolerance import compare, rounding
from .counterpart import Counterpart, different_parameters

_TRIES = 3


def compare_options(subject: ModelUnderTest, counterpart: Counterpart) -> Iterator[Measured]:
    """Compare both implementations with another value of each known option; values that one refuses are left out."""
    config = subject.text_config.to_dict()
    for option in known_options(subject.config()):
        values = list(alternatives(config[option.name], option.type))[:_TRIES]
        found = next(filter(None, (_compared(subject, counterpart, option.name, one) for one in values)), None)
        if found is not None:
            yield found


def _compared(subject: ModelUnderTest, counterpart: Counterpart, name: str, value: Any) -> Measured | None:
    what = f"{name}={value}"
    try:
        model = subject.randomized(subject.fresh_model_of(subject.constructed(subject.no_dropout | {name: value})))
        other = counterpart.fresh_model(subject, model.config)
        expected = _logits(subject.randomized(other).eval(), subject)
    except Exception:  # the other implementation refuses the value
        return None
    if missing := different_parameters(model, other):
        failure = f"{what}: the parameters are not those of {counterpart.name}: {truncated_list(missing)}"
        return expect(what, False, failure=failure)
    try:
        found = _logits(model.eval(), subject)
    except Exception as error:
        failure = f"{what}: raises {type(error).__name__}, and {counterpart.name} does not: {first_line(error)}"
        return expect(what, False, failure=failure)
    return compare(f"{what}: logits", found, expected, 10 * rounding(model))


@torch.no_grad()
def _logits(model: Any, subject: ModelUnderTest) -> Tensor:
    logits: Tensor = model(subject.tokens(2), use_cache=False).logits
    return logits
