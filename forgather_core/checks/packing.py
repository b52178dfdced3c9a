"""Packing: documents in one row, with positions that begin anew, are to the model what each of them is alone.

Every document is run by itself without a cache, and its logits are laid end to end: those of the packed row must be the
same, in evaluation and in training, whatever else is switched on that loaders, trainers and configurations switch on. A
loss that is taken over documents of a row must be the mean over their targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import Measured, check
from .attentions import implementations
from .caching import UNEQUAL, empty, forward_in_chunks
from .subject import LENGTH, ModelUnderTest
from .tolerance import position_of, relative, rounding

DOCUMENTS = ((7, 4, LENGTH - 11), (3, LENGTH - 4, 1))  # lengths, in each row; some are longer than a shrunk window


@check("packing-isolation", cause="packing told from position_ids only without a cache and without an attention mask")
def packing(subject: ModelUnderTest) -> Iterator[Measured]:
    """Documents packed into one row never see each other: each has the logits and the loss that it has alone."""
    text, position_ids = packed(subject)
    for attention in implementations(subject):
        model = subject.model(attention=attention, **subject.no_dropout)
        with torch.no_grad():
            alone = each_alone(model, text)
        tolerance = rounding(model)
        for training in (False, True):
            model.train(training)
            for name, more in ways(subject, text).items():
                with torch.set_grad_enabled(training):
                    logits = model(text, position_ids=position_ids, **more).logits
                what = f"{attention}, {'training' if training else 'evaluation'}, {name}"
                yield Measured(what, relative(logits, alone), tolerance, _document(logits, alone))
        if not subject.is_builtin:
            yield from _with_cache(model.eval(), attention, text, position_ids, alone)
        with torch.no_grad():
            expected = _loss_of_each(model, text)
            for name, more in ways(subject, text).items():
                found = model(text, position_ids=position_ids, labels=_labels(text, position_ids), **more).loss
                yield Measured(f"{attention}, loss, {name}", relative(found, expected), tolerance)


@torch.no_grad()
def _with_cache(model: Any, attention: str, text: Tensor, position_ids: Tensor, alone: Tensor) -> Iterator[Measured]:
    """The same with a cache that is there before, at once and in pieces that end within documents."""
    for name, sizes in (("at once", (LENGTH,)), ("in pieces", UNEQUAL)):
        logits, _ = forward_in_chunks(model, text, sizes, empty("dynamic", model), position_ids=position_ids)
        what = f"{attention}, into an empty cache, {name}"
        yield Measured(what, relative(logits, alone), rounding(model), _document(logits, alone))


def packed(subject: ModelUnderTest) -> tuple[Tensor, Tensor]:
    """Two rows of documents, and their positions."""
    positions = [[p for length in row for p in range(length)] for row in DOCUMENTS]
    return subject.tokens(len(DOCUMENTS)), torch.tensor(positions)


def ways(subject: ModelUnderTest, text: Tensor) -> dict[str, dict[str, Any]]:
    """What is given besides: transformers' own classes tell packing in one of these cases alone."""
    if subject.is_builtin:
        return {"use_cache=False, no mask (transformers' own classes promise no more)": {"use_cache": False}}
    ones = torch.ones_like(text)
    return {
        "defaults": {},
        "use_cache=False": {"use_cache": False},
        "a mask of ones": {"attention_mask": ones},
        "a mask of ones, use_cache=False": {"attention_mask": ones, "use_cache": False},
    }


def each_alone(model: Any, text: Tensor) -> Tensor:
    """The logits of all documents [B, T, V], each run by itself."""
    return torch.stack([torch.cat([model(one, use_cache=False).logits[0] for one in row]) for row in _split(text)])


def _split(text: Tensor) -> list[list[Tensor]]:
    return [list(row[None].split(list(lengths), 1)) for row, lengths in zip(text, DOCUMENTS, strict=True)]


def _labels(text: Tensor, position_ids: Tensor) -> Tensor:
    return text.masked_fill(position_ids == 0, -100)


def _loss_of_each(model: Any, text: Tensor) -> Tensor:
    """The mean over the targets of all documents; one token alone has no target."""
    several = [one for row in _split(text) for one in row if one.shape[1] > 1]
    targets = [one.shape[1] - 1 for one in several]
    losses = [model(one, labels=one, use_cache=False).loss * n for one, n in zip(several, targets, strict=True)]
    return torch.stack(losses).sum() / sum(targets)


def _document(found: Tensor, expected: Tensor) -> str | None:
    """Which document the worst logits are of, and where in it."""
    place = position_of(found, expected)
    if found.shape != expected.shape:
        return place
    worst = (found.double() - expected.double()).abs().nan_to_num(torch.inf).amax(-1)
    row, position = divmod(int(worst.argmax()), worst.shape[1])
    document = 0
    begin = 0
    while position >= begin + DOCUMENTS[row][document]:
        begin += DOCUMENTS[row][document]
        document += 1
    return f"{place}: token {position - begin} of document {document}"
