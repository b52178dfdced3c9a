"""Sliding window: the reach of attention, measured by gradients, which are exactly 0 beyond the window.

A layer with a window of w keys reaches up to w - 1 positions back, and L layers together reach L (w - 1).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..definitions.check import DoesNotApply, Measured, check, expect
from .shared.implementations import implementations
from .shared.layers import is_recurrent, windows_of
from .shared.model_under_test import LENGTH, ModelUnderTest


@check("sliding-window", cause="a window read under another name, off by one, or not passed to the mask")
def sliding_window(subject: ModelUnderTest) -> Iterator[Measured]:
    """With a sliding window a token attends to exactly `sliding_window` keys, itself included."""
    size, config = subject.window, subject.text_config
    if size is None:
        raise DoesNotApply("no layer has a sliding window")
    if is_recurrent(subject.on_meta()):
        raise DoesNotApply("layers with a state reach beyond the window")
    if None in windows_of(subject):
        raise DoesNotApply("some layers have no sliding window")
    reach = config.num_hidden_layers * (size - 1)
    if reach >= LENGTH - 1:
        raise DoesNotApply(f"a text of {LENGTH} tokens is not longer than {config.num_hidden_layers} windows of {size}")
    text = subject.tokens(2)
    for attention in implementations(subject):
        model = subject.randomized_model(attention=attention)
        embeds = model.get_input_embeddings()(text).detach().requires_grad_()
        model(inputs_embeds=embeds, use_cache=False).logits[:, -1].sum().backward()
        assert embeds.grad is not None
        yield expect(f"{attention}, gradients are finite", bool(embeds.grad.isfinite().all()))
        attended = (embeds.grad != 0).any(-1)
        expected = torch.arange(LENGTH) >= LENGTH - 1 - reach
        for limit, wrong in (("no more", attended & ~expected), ("no fewer", expected & ~attended)):
            positions = wrong.nonzero()[:, 1].tolist()
            what = f"{attention}, the last token attends {reach} positions back and {limit}"
            yield expect(what, not positions, f"positions {sorted(set(positions))}")
