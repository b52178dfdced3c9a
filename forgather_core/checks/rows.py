"""Rows: what stands in one row of a batch is nothing to the others."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..definitions.check import Measured, check
from .attentions import implementations
from .packing import packed
from .subject import LENGTH, ModelUnderTest
from .tolerance import compared, position_of, relative, rounding


@check("rows", cause="a mean, a maximum or a statistic that is taken over the batch")
def rows(subject: ModelUnderTest) -> Iterator[Measured]:
    """A row has the same logits to the last bit whatever stands in the other rows, in evaluation and in training.

    Rows in another order, and fewer of them, may be computed by other kernels: they differ by rounding.
    """
    text = subject.tokens(3)
    other = torch.cat((subject.tokens(1, seed=1), text[1:]))
    order = torch.tensor([2, 0, 1])
    for attention in implementations(subject):
        for training in (False, True):
            model = subject.model(attention=attention, **subject.no_dropout).train(training)
            how = f"{attention}, {'training' if training else 'evaluation'}"
            with torch.no_grad():
                before = model(text).logits
                found = model(other).logits
                error = relative(found[1:], before[1:])
                yield Measured(f"{how}, row 0 replaced", error, 0.0, _from(found, before))
                found = model(text[order]).logits
                yield compared(f"{how}, rows in another order", found, before[order], rounding(model))
                found = model(text[1:2]).logits
                yield compared(f"{how}, row 1 alone", found, before[1:2], rounding(model))
                position_ids = torch.arange(LENGTH).repeat(3, 1)
                position_ids[0] = packed(subject)[1][0]
                found = model(text, position_ids=position_ids, use_cache=False).logits
                error = relative(found[1:], before[1:])
                yield Measured(f"{how}, documents packed into row 0", error, rounding(model), _from(found, before))
                mask = torch.ones_like(text)
                mask[0, : LENGTH // 2] = 0
                found = model(text, attention_mask=mask).logits
                error = relative(found[1:], before[1:])
                yield Measured(f"{how}, padding in row 0", error, rounding(model), _from(found, before))


def _from(found: torch.Tensor, expected: torch.Tensor) -> str | None:
    """Where rows 1 and following differ."""
    return position_of(torch.cat((expected[:1], found[1:])), expected)
