"""Causality: logits do not depend on later tokens, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..definitions.check import Measured, check, expect
from .shared.implementations import implementations
from .shared.model_under_test import ModelUnderTest
from .shared.selection import order_of_sums
from .shared.tolerance import compare, position_of_largest

_TRIES = 8  # draws of other tokens; the first is the same by chance in one of hundreds


@check("causality", cause="a mask that is dropped, off by one, or undone by a later operation")
def causality(subject: ModelUnderTest) -> Iterator[Measured]:
    """Changing a token never changes the logits at earlier positions.

    All tokens from a position on are replaced, and all logits before it must be bit-equal: the same operations on the
    same numbers give the same result, and a masked weight is exactly 0. The gradient of earlier logits with respect to
    later tokens is exactly 0 too; it shows a leak too small to change a sum. Mixtures of experts may differ by
    rounding: later tokens change the order of the experts' sums.
    """
    names, allowed = implementations(subject), order_of_sums(subject)
    text = subject.tokens(2)
    length = text.shape[1]
    for attention in names:
        model = subject.randomized_model(attention=attention)
        with torch.no_grad():
            before = model(text).logits
            for position in (1, length // 2, length - 1):
                other = text.clone()
                other[:, position:] = _replacement(subject, text[:, position:], position)
                logits = model(other).logits
                what = f"{attention}, tokens from {position} on replaced"
                yield compare(what, logits[:, :position], before[:, :position], allowed(model))
                changed = (logits[:, position:] - before[:, position:]).abs().amax(-1)
                all_change = bool(changed.isfinite().all() and changed.min() > 0)
                yield expect(f"{what}: the logits from {position} on change", all_change)
        embeds = model.get_input_embeddings()(text).detach().requires_grad_()
        position = length // 2
        model(inputs_embeds=embeds, use_cache=False).logits[:, :position].sum().backward()
        leak = embeds.grad[:, position:].abs()
        what = f"{attention}, gradient of the logits before {position} with respect to later tokens"
        yield Measured(what, float(leak.max()), where=position_of_largest(leak, torch.zeros_like(leak)))


def _replacement(subject: ModelUnderTest, text: Tensor, seed: int) -> Tensor:
    """Return other tokens of the same shape, the first of which is another one in each row, if there are two."""
    rows, length = text.shape
    drawn = (subject.tokens(rows, length, seed=seed + 1000 * number) for number in range(_TRIES))
    other = (one for one in drawn if (one[:, 0] != text[:, 0]).all())
    return next(other, subject.tokens(rows, length, seed=seed))
