"""Labels: the loss is the mean cross-entropy of the next token, computed here by hand in float64 from the logits."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import Measured, check, expect
from ..training.loss import can_skip_logits
from .subject import LENGTH, ModelUnderTest
from .tolerance import compared, gradients_compared, gradients_of, relative, rounding

LONG = 300  # two rows of it are several parts of the loss without logits


@check("labels", cause="labels shifted twice or not at all, -100 taken for a token, or a mean over the wrong count")
def labels(subject: ModelUnderTest) -> Iterator[Measured]:
    """The loss is the mean cross-entropy of the next tokens; -100 is no target; num_items_in_batch divides the sum."""
    model = subject.model(**subject.no_dropout)
    tolerance = rounding(model)
    text = subject.tokens(3)
    some = text.clone()
    some[0, 5:9] = some[1, 1:] = some[2, -1] = -100
    takes = inspect.signature(model.forward).parameters
    anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values())
    for training in (False, True):
        model.train(training)
        how = "training" if training else "evaluation"
        for name, targets in (("all tokens", text), ("some are -100", some)):
            with torch.no_grad():
                outputs = model(text, labels=targets)
            total, count = by_hand(outputs.logits, targets)
            yield Measured(f"{how}, {name}", relative(outputs.loss, total / count), tolerance)
            if not (anything or "num_items_in_batch" in takes):
                continue
            for items in (7, torch.tensor(7)):
                with torch.no_grad():
                    loss = model(text, labels=targets, num_items_in_batch=items).loss
                what = f"{how}, {name}, num_items_in_batch as {'a tensor' if isinstance(items, Tensor) else 'an int'}"
                yield Measured(what, relative(loss, total / 7), tolerance)
    if "logits_to_keep" in takes:
        yield from _kept(model.eval(), text, tolerance)
    if can_skip_logits(model):
        yield from _skipped(subject, model.train())


def by_hand(logits: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """The cross-entropies of all next tokens, summed in float64, and how many they are."""
    scores = logits[:, :-1].double().log_softmax(-1)
    following = targets[:, 1:]
    real = following != -100
    chosen = scores.gather(-1, following.clamp(min=0)[..., None])[..., 0]
    return -chosen[real].sum(), int(real.sum())


@torch.no_grad()
def _kept(model: Any, text: Tensor, tolerance: float) -> Iterator[Measured]:
    whole = model(text).logits
    places = torch.tensor([1, LENGTH // 2, LENGTH - 2])
    for what, keep, expected in (
        ("0: all", 0, whole),
        ("1: the last", 1, whole[:, -1:]),
        ("3: the last three", 3, whole[:, -3:]),
        ("an index tensor", places, whole[:, places]),
    ):
        logits = model(text, logits_to_keep=keep).logits
        yield compared(f"logits_to_keep {what}", logits, expected, tolerance)


def _skipped(subject: ModelUnderTest, model: Any) -> Iterator[Measured]:
    """The loss without logits, which is computed for some tokens at a time: of one part, and of several."""
    tolerance = rounding(model)
    for length in (LENGTH, LONG):
        text = subject.tokens(2, length)
        some = text.clone()
        some[0, 5:9] = some[1, : length // 2] = -100
        for name, more in (("", {}), (", num_items_in_batch", {"num_items_in_batch": 7})):
            what = f"skip_logits, {length} tokens{name}"
            losses, gradients = [], []
            for skip in (False, True):
                model.zero_grad()
                outputs = model(text, labels=some, skip_logits=skip, **more)
                yield expect(f"{what}: {skip} is heeded", (outputs.logits is None) == skip)
                (outputs.loss / 4).backward()  # as where gradients are accumulated
                losses.append(outputs.loss.detach())
                gradients.append(gradients_of(model))
            yield Measured(f"{what}: the same loss", relative(losses[1], losses[0]), tolerance)
            yield gradients_compared(f"{what}: the same gradients", gradients[1], gradients[0], tolerance)
    if hasattr(model.config, "skip_logits"):
        text, model.config.skip_logits = subject.tokens(2), True
        for training in (False, True):
            outputs = model.train(training)(text, labels=text)
            how = "skips them" if training else "does not in evaluation"
            yield expect(f"the configuration's skip_logits {how}", (outputs.logits is None) == training)
