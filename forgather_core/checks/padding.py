"""Padding: a text has the same logits with padding on its left, on its right, within it, or without.

Each row is run by itself without padding. Ours count positions over real tokens by themselves; others are given them as
`generate()` gives them, in which case ours must agree too. Padding sees nothing, of which a softmax may make NaN:
nothing that is not finite may reach the logits or, from the loss of real tokens, any gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import Measured, check, expect
from .attentions import implementations
from .subject import LENGTH, ModelUnderTest
from .tolerance import gradients_of, position_of, relative, rounding

REAL = (LENGTH, LENGTH // 2, 1)  # tokens of each row


@check("padding", cause="positions that count padding, a mask that is dropped, or a row of it that sees nothing")
def padding(subject: ModelUnderTest) -> Iterator[Measured]:
    """Padding beside a text changes nothing of its logits and its loss, and nothing becomes NaN."""
    for attention in implementations(subject):
        model = subject.model(attention=attention, **subject.no_dropout)
        # A window counts places: within a text, padding takes some of them.
        within = ("within",) if subject.is_ours and subject.window is None else ()
        for side in ("left", "right", *within):
            ids, mask = padded(subject, side)
            real = mask.bool()
            with torch.no_grad():
                alone = rows_alone(model, ids, mask)
                loss = _loss_alone(model, ids, mask)
            for name, more in given_positions(subject, mask).items():
                what = f"{attention}, {side}, {name}"
                model.zero_grad()
                outputs = model(ids, attention_mask=mask, labels=padded_labels(ids, mask), **more)
                logits = outputs.logits
                expected = torch.zeros_like(logits)
                expected[real] = alone
                found = torch.where(real[..., None], logits, 0.0)
                yield Measured(what, relative(logits[real], alone), rounding(model), position_of(found, expected))
                if side != "within":  # what comes before a gap has another target than it has alone
                    yield Measured(f"{what}: loss", relative(outputs.loss, loss), rounding(model))
                strange = (~logits.isfinite()).any(-1).nonzero().tolist()
                where = f"row {strange[0][0]}, position {strange[0][1]}" if strange else None
                yield expect(f"{what}: logits are finite on padding too", not strange, where)
                outputs.loss.backward()
                names = [name for name, grad in gradients_of(model).items() if not grad.isfinite().all()]
                yield expect(f"{what}: gradients are finite", not names, ", ".join(names[:5]))


def padded(subject: ModelUnderTest, side: str, real: tuple[int, ...] = REAL) -> tuple[Tensor, Tensor]:
    """Rows of so many real tokens, and their mask."""
    length = max(real)
    ids, mask = subject.tokens(len(real), length), torch.ones(len(real), length, dtype=torch.long)
    for row, count in enumerate(real):
        begin = {"left": 0, "right": count, "within": count // 2}[side]
        mask[row, begin : begin + length - count] = 0
    pad = getattr(subject.text_config, "pad_token_id", None)
    return ids.masked_fill(mask == 0, pad if isinstance(pad, int) and pad >= 0 else 0), mask


def padded_labels(ids: Tensor, mask: Tensor) -> Tensor:
    """The targets of padded rows. The first real token is none: what comes before it is padding, of no meaning."""
    before = torch.nn.functional.pad(mask[:, :-1], (1, 0))
    return ids.masked_fill((mask == 0) | (before == 0), -100)


def given_positions(subject: ModelUnderTest, mask: Tensor) -> dict[str, dict[str, Any]]:
    """The ways to give positions: as `generate()` does, and for ours not at all."""
    given = {"positions as generate() gives them": {"position_ids": counted(mask)}}
    return given | {"no positions": {}} if subject.is_ours else given


def counted(mask: Tensor) -> Tensor:
    """Positions that count real tokens, as `generate()` makes them; 1 on padding."""
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)


def rows_alone(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """The logits [real tokens, V] of all rows, each run by itself without its padding."""
    rows = zip(ids, mask.bool(), strict=True)
    return torch.cat([model(row[real][None], use_cache=False).logits[0] for row, real in rows])


def _loss_alone(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """The mean over the targets of all rows, each run by itself."""
    rows = [row[real][None] for row, real in zip(ids, mask.bool(), strict=True) if real.sum() > 1]
    losses = [model(row, labels=row, use_cache=False).loss * (row.shape[1] - 1) for row in rows]
    total: Tensor = torch.stack(losses).sum() / sum(row.shape[1] - 1 for row in rows)
    return total
