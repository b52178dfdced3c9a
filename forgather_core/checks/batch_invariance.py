"""Batch invariance: the rows of a batch do not affect each other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..definitions.check import Measured, check
from ..model.difference import relative_difference
from .shared.cached_forward import has_positions
from .shared.implementations import implementations
from .shared.inputs import packed_rows
from .shared.model_under_test import LENGTH, ModelUnderTest
from .shared.selection import order_of_sums
from .shared.tolerance import compare, position_of_largest, rounding


@check("batch-invariance", cause="a mean, a maximum or a statistic that is taken over the batch")
def batch_invariance(subject: ModelUnderTest) -> Iterator[Measured]:
    """The logits of a row do not depend on the other rows, to the last bit, in evaluation and in training.

    Another order or number of rows may select other kernels, so these cases may differ by rounding. In mixtures of
    experts, other rows also change the order of the experts' sums.
    """
    names, allowed = implementations(subject), order_of_sums(subject)
    text = subject.tokens(3)
    others = subject.tokens(3, seed=1)
    order = torch.tensor([2, 0, 1])
    for attention in names:
        for training in (False, True):
            model = subject.randomized_model(attention=attention, **subject.no_dropout).train(training)
            how = f"{attention}, {'training' if training else 'evaluation'}"
            with torch.no_grad():
                before = model(text).logits
                for row in range(3):  # a maximum over the batch depends on one row only
                    found = model(torch.cat((others[:row], text[row : row + 1], others[row + 1 :]))).logits
                    yield compare(f"{how}, row {row} with other rows", found[[row]], before[[row]], allowed(model))
                found = model(text[order]).logits
                yield compare(f"{how}, rows in another order", found, before[order], rounding(model))
                found = model(text[1:2]).logits
                yield compare(f"{how}, row 1 alone", found, before[1:2], rounding(model))
                if has_positions(subject, model):
                    position_ids = torch.arange(LENGTH).repeat(3, 1)
                    whole = model(text, position_ids=position_ids, use_cache=False).logits
                    position_ids[0] = packed_rows(subject)[1][0]
                    found = model(text, position_ids=position_ids, use_cache=False).logits
                    yield _compare_other_rows(f"{how}, documents packed into row 0", found, whole, rounding(model))
                mask = torch.ones_like(text)
                mask[0, : LENGTH // 2] = 0
                found = model(text, attention_mask=mask).logits
                yield _compare_other_rows(f"{how}, padding in row 0", found, before, rounding(model))


def _compare_other_rows(what: str, found: Tensor, expected: Tensor, tolerance: float) -> Measured:
    """Compare all rows but the first."""
    where = position_of_largest(torch.cat((expected[:1], found[1:])), expected)
    return Measured(what, relative_difference(found[1:], expected[1:]), tolerance, where)
