"""Windows: how far back a token sees, told by gradients, which are exactly 0 where nothing is seen.

A layer with a window of w keys hands on what stands up to w - 1 places back, so that L layers see L (w - 1) back.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..definitions.check import DoesNotApply, Measured, check, expect
from .attentions import implementations
from .subject import LENGTH, ModelUnderTest


@check("window", cause="a window that is read by another name, counted from another end, or not told to the mask")
def window(subject: ModelUnderTest) -> Iterator[Measured]:
    """With a sliding window a token sees as many keys as it says, itself included: no more, and no less."""
    size, config = subject.window, subject.text_config
    if size is None or "full_attention" in (getattr(config, "layer_types", None) or ()):
        raise DoesNotApply("there are layers that see everything")
    reach = config.num_hidden_layers * (size - 1)
    if reach >= LENGTH - 1:
        raise DoesNotApply(f"a text of {LENGTH} tokens is not longer than {config.num_hidden_layers} windows of {size}")
    text = subject.tokens(2)
    for attention in implementations(subject):
        model = subject.model(attention=attention)
        embeds = model.get_input_embeddings()(text).detach().requires_grad_()
        model(inputs_embeds=embeds, use_cache=False).logits[:, -1].sum().backward()
        assert embeds.grad is not None
        yield expect(f"{attention}, gradients are finite", bool(embeds.grad.isfinite().all()))
        seen = (embeds.grad != 0).any(-1)
        due = torch.arange(LENGTH) >= LENGTH - 1 - reach
        for what, wrong in (("nothing farther", seen & ~due), ("all of them", due & ~seen)):
            places = wrong.nonzero()[:, 1].tolist()
            yield expect(f"{attention}, {reach} places back: {what}", not places, f"positions {sorted(set(places))}")
