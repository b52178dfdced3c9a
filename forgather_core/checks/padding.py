"""Padding: padding on the left, on the right or within a text does not change its logits.

The expected logits are those of each row by itself without padding. All models are tested with the positions that
`generate()` passes. Forgather's models are also tested without positions, which they compute from the mask. Padding
attends to no token, so a softmax may return NaN: logits and gradients must be finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import Measured, check, expect
from ..model.difference import relative_difference
from .shared.compared_gradients import gradients_of
from .shared.implementations import implementations
from .shared.inputs import PADDED_LENGTHS, logits_of_rows, padded_labels, padded_rows, position_arguments
from .shared.model_under_test import LENGTH, ModelUnderTest
from .shared.tolerance import position_of_largest, rounding


@check("padding", cause="positions that count padding, a mask that is dropped, or a mask row that hides everything")
def padding(subject: ModelUnderTest) -> Iterator[Measured]:
    """Padding does not change the logits and the loss of a text, and nothing becomes NaN."""
    yield from _check_router_loss(subject)
    for attention in implementations(subject):
        model = subject.randomized_model(attention=attention, **subject.no_dropout)
        # A sliding window counts padding within the text: texts beyond it would have fewer visible tokens.
        window = min(subject.window or LENGTH, LENGTH)
        lengths = {"left": PADDED_LENGTHS, "right": PADDED_LENGTHS}
        if subject.made_by_forgather:
            lengths["within"] = (window, max(window // 2, 2), 2)  # all rows begin and end with a token
        for side, of_rows in lengths.items():
            ids, mask = padded_rows(subject, side, of_rows)
            real = mask.bool()
            with torch.no_grad():
                alone = logits_of_rows(model, ids, mask)
                loss = _mean_loss_of_rows(model, ids, mask)
            for name, more in position_arguments(subject, mask).items():
                what = f"{attention}, {side}, {name}"
                model.zero_grad()
                outputs = model(ids, attention_mask=mask, labels=padded_labels(ids, mask), **more)
                logits = outputs.logits
                expected = torch.zeros_like(logits)
                expected[real] = alone
                found = torch.where(real[..., None], logits, 0.0)
                error = relative_difference(logits[real], alone)
                yield Measured(what, error, rounding(model), position_of_largest(found, expected))
                if side != "within":  # the token before a gap has another target than in the row alone
                    yield Measured(f"{what}: loss", relative_difference(outputs.loss, loss), rounding(model))
                bad = (~logits.isfinite()).any(-1).nonzero().tolist()
                where = f"row {bad[0][0]}, position {bad[0][1]}" if bad else None
                yield expect(f"{what}: logits are finite, on padding too", not bad, where)
                outputs.loss.backward()
                names = [name for name, grad in gradients_of(model).items() if not grad.isfinite().all()]
                yield expect(f"{what}: gradients are finite", not names, ", ".join(names[:5]))


@torch.no_grad()
def _check_router_loss(subject: ModelUnderTest) -> Iterator[Measured]:
    """Check that the auxiliary loss of a router does not count padding, and that its logits are no probabilities."""
    if not hasattr(subject.text_config, "router_aux_loss_coef") or not implementations(subject):
        return
    model = subject.randomized_model(**subject.no_dropout)
    ids, mask = padded_rows(subject, "right", (LENGTH, LENGTH // 2))
    row, ones = ids[1:], mask[1:]
    found = model(row, attention_mask=ones, output_router_logits=True, use_cache=False).get("aux_loss")
    alone = row[ones.bool()][None]
    more = {"attention_mask": torch.ones_like(alone)}
    outputs = model(alone, output_router_logits=True, use_cache=False, **more)
    expected = outputs.get("aux_loss")
    routed = outputs.get("router_logits")
    for index, logits in enumerate(routed if isinstance(routed, tuple | list) else ()):
        if isinstance(logits, Tensor) and logits.dim() > 1 and logits.shape[-1] > 1:
            sums = logits.float().sum(-1)
            normalized = bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
            failure = f"the router logits of layer {index} are probabilities, so that their softmax is taken twice"
            yield expect(f"the router logits of layer {index} are not normalized", not normalized, failure=failure)
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        error = relative_difference(found, expected)
        yield Measured("the auxiliary loss of the router, with and without padding", error, rounding(model))


def _mean_loss_of_rows(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the mean loss over the targets of all rows, each computed by itself."""
    rows = [row[real][None] for row, real in zip(ids, mask.bool(), strict=True) if real.sum() > 1]
    losses = [model(row, labels=row, use_cache=False).loss * (row.shape[1] - 1) for row in rows]
    total: Tensor = torch.stack(losses).sum() / sum(row.shape[1] - 1 for row in rows)
    return total
