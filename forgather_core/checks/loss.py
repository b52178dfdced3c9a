"""Loss: the mean cross-entropy of the next token, recomputed here in float64 from the logits."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import Measured, check, expect
from ..model.difference import relative_difference, rms_difference
from ..training.loss import can_skip_logits
from .shared.compared_gradients import compare_gradients, gradients_of
from .shared.inputs import padding_id, with_special_tokens
from .shared.model_under_test import LENGTH, ModelUnderTest
from .shared.tolerance import compare, rounding

MANY, MANY_LENGTH = 8, 512  # rows and tokens of a text with many chunks
LONG = 300  # tokens: two such rows are several chunks of the chunked cross-entropy


@check("loss", cause="labels shifted twice or not at all, -100 counted as a target, or a mean over the wrong count")
def loss(subject: ModelUnderTest) -> Iterator[Measured]:
    """The loss is the mean cross-entropy of the next tokens; -100 is ignored; num_items_in_batch divides the sum."""
    model = subject.randomized_model(**subject.no_dropout)
    tolerance = rounding(model)
    text = subject.tokens(3)
    some = text.clone()
    some[0, 5:9] = some[1, 1:] = some[2, -1] = -100
    special = with_special_tokens(subject, text)
    special[1, 3] = padding_id(subject)  # a label like any other
    parameters = inspect.signature(model.forward).parameters
    any_keyword = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    for training in (False, True):
        model.train(training)
        how = "training" if training else "evaluation"
        for name, targets in (
            ("all tokens are targets", text),
            ("some labels are -100", some),
            ("some labels are special tokens", special),
        ):
            with torch.no_grad():
                outputs = model(text, labels=targets)
            total, count = cross_entropy_sum(outputs.logits, targets)
            expected = total / count + auxiliary_loss(model, outputs)
            yield Measured(f"{how}, {name}", relative_difference(outputs.loss, expected), tolerance)
            if not (any_keyword or "num_items_in_batch" in parameters):
                continue
            for items in (7, torch.tensor(7)):
                with torch.no_grad():
                    outputs = model(text, labels=targets, num_items_in_batch=items)
                expected = total / 7 + auxiliary_loss(model, outputs)
                what = f"{how}, {name}, num_items_in_batch as {'a tensor' if isinstance(items, Tensor) else 'an int'}"
                yield Measured(what, relative_difference(outputs.loss, expected), tolerance)
    if subject.made_by_forgather:  # releases of transformers name the cache differently; Forgather supports all
        yield _check_predictions(model.eval(), text)
        yield from _check_own_loss(subject, text)
    if "logits_to_keep" in parameters:
        yield from _check_logits_to_keep(model.eval(), text, tolerance)
    if can_skip_logits(model):
        yield from _check_skip_logits(subject, model.train())


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Return the sum of the cross-entropies of all next tokens, in float64, and the number of targets.

    Args:
        logits: [B, T, V].
        targets: Token ids, [B, T], not shifted: the logits of a position predict the next one. -100 is ignored.
    """
    scores = logits[:, :-1].double().log_softmax(-1)
    following = targets[:, 1:]
    real = following != -100
    chosen = scores.gather(-1, following.clamp(min=0)[..., None])[..., 0]
    return -chosen[real].sum(), int(real.sum())


def auxiliary_loss(model: Any, outputs: Any) -> float:
    """Return the weighted auxiliary loss in a loss, such as that of a router; 0 if there is none."""
    if (loss := outputs.get("aux_loss")) is None:
        return 0.0
    weight = getattr(model, "auxiliary_loss_weight", lambda: getattr(model.config, "router_aux_loss_coef", 1.0))()
    return float(loss) * float(weight)


@torch.no_grad()
def _check_predictions(model: Any, text: Tensor) -> Measured:
    """Check that the evaluation of transformers' Trainer gets no prediction besides the logits, such as the cache."""
    ignored = getattr(model.config, "keys_to_ignore_at_inference", ())
    returned = [name for name in model(text, labels=text, use_cache=True) if name not in ("loss", "logits")]
    more = ", ".join(name for name in returned if name not in ignored)
    failure = f"keys_to_ignore_at_inference lacks {more}: a Trainer takes it for a prediction"
    return expect("a Trainer's evaluation gets the logits only", not more, failure=failure)


@torch.no_grad()
def _check_own_loss(subject: ModelUnderTest, text: Tensor) -> Iterator[Measured]:
    """Check that a function that replaces the model's loss is used in every mode."""

    def mean_square(logits: Tensor, **_: Any) -> Tensor:
        return logits.float().square().mean()

    model = subject.randomized_model(**subject.no_dropout)
    expected = mean_square(model(text, use_cache=False).logits)
    model.loss_function = mean_square
    for training in (False, True):
        for more in ({}, {"skip_logits": True}) if can_skip_logits(model) else ({},):
            outputs = model.train(training)(text, labels=text, use_cache=False, **more)
            found = outputs.loss - auxiliary_loss(model, outputs)
            what = f"{'training' if training else 'evaluation'}{', skip_logits' if more else ''}, model.loss_function"
            failure = f"{what} is replaced, and the loss is that of another function"
            holds = relative_difference(found, expected) <= rounding(model)
            yield expect(what, holds, failure=failure)


@torch.no_grad()
def _check_logits_to_keep(model: Any, text: Tensor, tolerance: float) -> Iterator[Measured]:
    whole = model(text).logits
    positions = torch.tensor([1, LENGTH // 2, LENGTH - 2])
    for what, keep, expected in (
        ("0 keeps all", 0, whole),
        ("1 keeps the last", 1, whole[:, -1:]),
        ("3 keeps the last three", 3, whole[:, -3:]),
        ("as an index tensor", positions, whole[:, positions]),
    ):
        logits = model(text, logits_to_keep=keep).logits
        yield compare(f"logits_to_keep {what}", logits, expected, tolerance)


def _check_sum_of_chunks(subject: ModelUnderTest) -> Measured:
    """Check that the chunks of a bfloat16 loss are summed in float32: few roundings, however many chunks there are.

    The gradients of the head with and without chunks differ by three roundings. Each is up to half an eps, with a root
    mean square of eps / (2 sqrt(3)) at most.
    """
    model = subject.randomized_model(**subject.no_dropout).to(torch.bfloat16).train()
    text = subject.tokens(MANY, min(subject.text_config.max_position_embeddings or MANY_LENGTH, MANY_LENGTH))
    gradients = []
    for skip in (False, True):
        model.zero_grad()
        model(text, labels=text, skip_logits=skip, use_cache=False).loss.backward()
        gradients.append(model.get_output_embeddings().weight.grad.clone())
    what = f"skip_logits in bfloat16, {text.numel()} tokens: gradient of the head"
    return Measured(what, rms_difference(gradients[1], gradients[0]), float(torch.finfo(torch.bfloat16).eps) / 2)


def _check_skip_logits(subject: ModelUnderTest, model: Any) -> Iterator[Measured]:
    """Check the chunked cross-entropy with one chunk and with several."""
    tolerance = rounding(model)
    for length in (LENGTH, LONG):
        text = subject.tokens(2, length)
        some = text.clone()
        some[0, 5:9] = some[1, 3 : length // 2] = -100
        for name, more in (("", {}), (", num_items_in_batch", {"num_items_in_batch": 7})):
            what = f"skip_logits, {length} tokens{name}"
            losses, gradients = [], []
            for skip in (False, True):
                model.zero_grad()
                outputs = model(text, labels=some, skip_logits=skip, **more)
                returned = "no logits" if skip else "logits"
                yield expect(f"{what}: skip_logits={skip} returns {returned}", (outputs.logits is None) == skip)
                (outputs.loss / 4).backward()  # as with gradient accumulation
                losses.append(outputs.loss.detach())
                gradients.append(gradients_of(model))
            yield Measured(f"{what}: loss", relative_difference(losses[1], losses[0]), tolerance)
            yield compare_gradients(f"{what}: gradients", gradients[1], gradients[0], tolerance)
    yield _check_sum_of_chunks(subject)
    if hasattr(model.config, "skip_logits"):
        text, model.config.skip_logits = subject.tokens(2), True
        for training in (False, True):
            outputs = model.train(training)(text, labels=text)
            how = "has an effect in training" if training else "has no effect in evaluation"
            yield expect(f"skip_logits of the configuration {how}", (outputs.logits is None) == training)
