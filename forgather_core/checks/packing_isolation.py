"""Packing isolation: each document in a packed row gets the logits that it gets alone.

Every document is run by itself without a cache, and its logits are concatenated. The logits of the packed row must be
the same, in evaluation and in training, with every combination of cache and mask that loaders, trainers and
configurations use. The loss of a packed row must be the mean over the targets of its documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check
from ..model.difference import relative_difference
from .shared.cached_forward import UNEQUAL, empty_cache, forward_in_chunks, has_positions
from .shared.implementations import implementations
from .shared.inputs import DOCUMENTS, packed_rows, split_documents
from .shared.model_under_test import LENGTH, ModelUnderTest
from .shared.tolerance import position_of_largest, rounding

NO_POSITIONS = "the model takes no position_ids, which separate packed documents"


@check("packing-isolation", cause="packing that is detected only without a cache and without an attention mask")
def packing_isolation(subject: ModelUnderTest) -> Iterator[Measured]:
    """Packed documents do not attend to each other: logits and loss equal those of each document alone."""
    if not has_positions(subject, subject.on_meta()):
        raise DoesNotApply(NO_POSITIONS)
    text, position_ids = packed_rows(subject)
    for attention in implementations(subject):
        model = subject.randomized_model(attention=attention, **subject.no_dropout)
        with torch.no_grad():
            alone = _logits_of_documents(model, text)
        tolerance = rounding(model)
        for training in (False, True):
            model.train(training)
            for name, more in _arguments(subject, text).items():
                with torch.set_grad_enabled(training):
                    logits = model(text, position_ids=position_ids, **more).logits
                what = f"{attention}, {'training' if training else 'evaluation'}, {name}"
                yield Measured(what, relative_difference(logits, alone), tolerance, _position(logits, alone))
        if subject.made_by_forgather:
            yield from _check_cache(model.eval(), attention, text, position_ids, alone)
        with torch.no_grad():
            expected = _mean_loss_of_documents(model, text)
            labels = text.masked_fill(position_ids == 0, -100)
            for name, more in _arguments(subject, text).items():
                found = model(text, position_ids=position_ids, labels=labels, **more).loss
                yield Measured(f"{attention}, loss, {name}", relative_difference(found, expected), tolerance)


@torch.no_grad()
def _check_cache(model: Any, attention: str, text: Tensor, position_ids: Tensor, alone: Tensor) -> Iterator[Measured]:
    """Check packed rows with an empty cache, at once and in chunks that end within documents."""
    for name, sizes in (("at once", (LENGTH,)), ("in chunks", UNEQUAL)):
        logits, _ = forward_in_chunks(model, text, sizes, empty_cache("dynamic", model), position_ids=position_ids)
        what = f"{attention}, into an empty cache, {name}"
        yield Measured(what, relative_difference(logits, alone), rounding(model), _position(logits, alone))


def _arguments(subject: ModelUnderTest, text: Tensor) -> dict[str, dict[str, Any]]:
    """Return further arguments by case; transformers' own classes support packing in only one case."""
    if not subject.made_by_forgather:
        return {"use_cache=False, no mask (transformers' own classes support no other case)": {"use_cache": False}}
    ones = torch.ones_like(text)
    return {
        "defaults": {},
        "use_cache=False": {"use_cache": False},
        "mask of ones": {"attention_mask": ones},
        "mask of ones, use_cache=False": {"attention_mask": ones, "use_cache": False},
    }


def _logits_of_documents(model: Any, text: Tensor) -> Tensor:
    """Return the logits [B, T, V] of all documents, each computed by itself."""
    rows = split_documents(text)
    return torch.stack([torch.cat([model(one, use_cache=False).logits[0] for one in row]) for row in rows])


def _mean_loss_of_documents(model: Any, text: Tensor) -> Tensor:
    """Return the mean loss over the targets of all documents; a document of one token has no target."""
    several = [one for row in split_documents(text) for one in row if one.shape[1] > 1]
    targets = [one.shape[1] - 1 for one in several]
    losses = [model(one, labels=one, use_cache=False).loss * n for one, n in zip(several, targets, strict=True)]
    return torch.stack(losses).sum() / sum(targets)


def _position(found: Tensor, expected: Tensor) -> str | None:
    """Return the position of the largest difference, in the row and in its document."""
    place = position_of_largest(found, expected)
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
