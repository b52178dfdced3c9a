"""Attention implementations agree: eager, sdpa and flex_attention are ways to compute one model.

eager is the reference: it computes in the open. Each of the others must have its logits, with every kind of mask
(causal, windows, padding, packed documents, a cache), and sdpa its gradients too. flex_attention is not compiled here,
since that takes long: its masks and biases are the same, computed one operation after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check
from .attentions import forward_implementations, uncompiled
from .caching import UNEQUAL, empty, forward_in_chunks
from .packing import packed
from .padding import counted, padded, padded_labels
from .subject import ModelUnderTest
from .tolerance import compared, gradients_compared, gradients_of, rounding


@check("attention-agreement", cause="a mask, bias or scaling that one implementation is not told of")
def attention_agreement(subject: ModelUnderTest) -> Iterator[Measured]:
    """Every attention implementation has the logits and gradients that eager has, with every kind of mask."""
    names = forward_implementations(subject)
    if "eager" not in names or len(names) < 2:
        raise DoesNotApply(f"there are no two implementations to compare, but {', '.join(names) or 'none'}")
    model = subject.model(attention="eager")
    tolerance = rounding(model)
    expected = _logits(subject, model)
    gradients = _gradients(subject, "eager")
    for attention in names:
        if attention == "eager":
            continue
        with uncompiled() if attention == "flex_attention" else nullcontext():
            found = _logits(subject, subject.model(attention=attention))
        for what, logits in found.items():
            yield compared(f"{attention}, {what}", logits, expected[what], tolerance)
        if attention != "flex_attention":  # which has no gradients on CPU
            for what, one in _gradients(subject, attention).items():
                yield gradients_compared(f"{attention}, {what}, gradients", one, gradients[what], tolerance)


@torch.no_grad()
def _logits(subject: ModelUnderTest, model: Any) -> dict[str, Tensor]:
    """The logits of each case; 0 on padding."""
    text = subject.tokens(2)
    found = {"causal" if subject.window is None else "a window": model(text, use_cache=False).logits}
    found["a mask of ones"] = model(text, attention_mask=torch.ones_like(text)).logits
    for side in ("left", "right"):
        ids, mask = padded(subject, side)
        logits = model(ids, attention_mask=mask, position_ids=counted(mask)).logits
        found[f"padding on the {side}"] = torch.where(mask.bool()[..., None], logits, 0.0)
    documents, position_ids = packed(subject)
    found["packed documents"] = model(documents, position_ids=position_ids, use_cache=False).logits
    found["cached, in unequal pieces"], _ = forward_in_chunks(model, text, UNEQUAL, empty("dynamic", model))
    return found


def _gradients(subject: ModelUnderTest, attention: str) -> dict[str, dict[str, Tensor]]:
    model = subject.model(attention=attention, **subject.no_dropout).train()
    text, (documents, position_ids) = subject.tokens(2), packed(subject)
    ids, mask = padded(subject, "left")
    cases: dict[str, dict[str, Tensor]] = {
        "no mask": {"input_ids": text, "labels": text},
        "padding": {"input_ids": ids, "attention_mask": mask, "labels": padded_labels(ids, mask)},
        "packed documents": {"input_ids": documents, "position_ids": position_ids, "labels": documents},
    }
    found = {}
    for what, inputs in cases.items():
        model.zero_grad()
        model(**inputs, use_cache=False).loss.backward()
        found[what] = gradients_of(model)
    return found
