"""Attention backends: eager, sdpa and flex_attention compute the same model.

eager is the reference. The logits of the others must equal its logits with every kind of mask (causal, sliding window,
padding, packed documents, with a cache), and the gradients of sdpa must equal its gradients. flex_attention runs
without compilation, which is slow. Its masks and biases are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check
from .shared.cached_forward import UNEQUAL, empty_cache, forward_in_chunks
from .shared.implementations import forward_implementations, uncompiled_flex
from .shared.inputs import packed_rows, padded_labels, padded_rows, real_positions
from .shared.model_under_test import ModelUnderTest
from .shared.tolerance import compare, compare_gradients, gradients_of, rounding


@check("attention-backends", cause="a mask, bias or scaling that one implementation does not receive")
def attention_backends(subject: ModelUnderTest) -> Iterator[Measured]:
    """Every attention implementation gives the same logits and gradients as eager, with every kind of mask."""
    names = forward_implementations(subject)
    if "eager" not in names or len(names) < 2:
        available = ", ".join(names) or "none"
        raise DoesNotApply(f"the comparison requires eager and another implementation; available: {available}")
    model = subject.randomized_model(attention="eager")
    tolerance = rounding(model)
    expected = _logits(subject, model)
    gradients = _gradients(subject, "eager")
    for attention in names:
        if attention == "eager":
            continue
        with uncompiled_flex(attention):
            found = _logits(subject, subject.randomized_model(attention=attention))
        for what, logits in found.items():
            yield compare(f"{attention}, {what}", logits, expected[what], tolerance)
        if attention != "flex_attention":  # it has no backward pass on CPU
            for what, one in _gradients(subject, attention).items():
                yield compare_gradients(f"{attention}, {what}, gradients", one, gradients[what], tolerance)


@torch.no_grad()
def _logits(subject: ModelUnderTest, model: Any) -> dict[str, Tensor]:
    """Return the logits of each case; 0 on padding."""
    text = subject.tokens(2)
    found = {"causal" if subject.window is None else "sliding window": model(text, use_cache=False).logits}
    found["mask of ones"] = model(text, attention_mask=torch.ones_like(text)).logits
    for side in ("left", "right"):
        ids, mask = padded_rows(subject, side)
        logits = model(ids, attention_mask=mask, position_ids=real_positions(mask)).logits
        found[f"padding on the {side}"] = torch.where(mask.bool()[..., None], logits, 0.0)
    documents, position_ids = packed_rows(subject)
    found["packed documents"] = model(documents, position_ids=position_ids, use_cache=False).logits
    found["with a cache, in unequal chunks"], _ = forward_in_chunks(model, text, UNEQUAL, empty_cache("dynamic", model))
    return found


def _gradients(subject: ModelUnderTest, attention: str) -> dict[str, dict[str, Tensor]]:
    model = subject.randomized_model(attention=attention, **subject.no_dropout).train()
    text, (documents, position_ids) = subject.tokens(2), packed_rows(subject)
    ids, mask = padded_rows(subject, "left")
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
