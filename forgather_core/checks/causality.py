"""Causality: the logits of a position are the same, to the last bit, whatever tokens come after it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..definitions.check import Measured, check, expect
from .attentions import implementations
from .subject import ModelUnderTest
from .tolerance import compared, position_of


@check("causality", cause="a mask that is dropped, off by one, or applied before something that undoes it")
def causality(subject: ModelUnderTest) -> Iterator[Measured]:
    """No token changes what stands before it.

    Every token from the middle on is replaced, one run for each of some places, and all logits before the place must be
    bit-equal: the same operations on the same numbers give the same result, and a masked weight is exactly 0. So is the
    gradient of what stands before by what comes after, which shows a leak too small to change a sum.
    """
    text = subject.tokens(2)
    length = text.shape[1]
    for attention in implementations(subject):
        model = subject.model(attention=attention)
        with torch.no_grad():
            before = model(text).logits
            for place in (1, length // 2, length - 1):
                other = text.clone()
                other[:, place:] = subject.tokens(2, length - place, seed=place)
                logits = model(other).logits
                what = f"{attention}, tokens from {place} on replaced"
                yield compared(what, logits[:, :place], before[:, :place])
                changed = (logits[:, place:] - before[:, place:]).abs().amax(-1)
                matter = bool(changed.isfinite().all() and changed.min() > 0)
                yield expect(f"{attention}, they matter from {place} on", matter)
        embeds = model.get_input_embeddings()(text).detach().requires_grad_()
        place = length // 2
        model(inputs_embeds=embeds, use_cache=False).logits[:, :place].sum().backward()
        leak = embeds.grad[:, place:].abs()
        what = f"{attention}, gradient of logits before {place} by what follows"
        yield Measured(what, float(leak.max()), where=position_of(leak, torch.zeros_like(leak)))
