"""Dropout: its rate, scale, shape and place, observed at the calls of torch's dropout functions.

Each option is set alone; those of transformers' own classes all at once, since some belong to other heads. Kept
elements are divided by 1 - p (Srivastava et al. 2014, jmlr.org/papers/v15/srivastava14a.html, sec. 10). A dropout that
is computed without torch's functions is not observed; the details of the report name its option.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..definitions.check import Details, DoesNotApply, Measured, check, expect
from ..model.difference import relative_difference
from .gradient_checkpointing import AS_RECOMPUTED, rounds_reentrant
from .same_seed import dropouts
from .shared.compared_gradients import compare_gradients, loss_and_gradients
from .shared.dropout_calls import DropoutCall, recorded_dropout
from .shared.dropout_masks import MAX_CORRELATION, Mask, most_correlated, share_error
from .shared.implementations import implementations, require_dropout
from .shared.layers import calls_of_layers, layers_of
from .shared.model_under_test import LENGTH, ModelUnderTest
from .shared.tolerance import SIGMAS, compare, rounding

PROBABILITY = 0.3
ROWS = 4
_ROUNDING = 4 * torch.finfo(torch.float32).eps
T = TypeVar("T")


@check("dropout", cause="a wrong probability, a rescaled result, a mask that is reused, or a layer without dropout")
def dropout(subject: ModelUnderTest) -> Iterator[Measured | Details]:
    """Dropout zeroes independent elements with the configured probability, in training only, equally in all layers."""
    require_dropout(subject)
    options = dropouts(subject.config())
    if not options:
        raise DoesNotApply("the configuration has no dropout option")
    unobserved = []
    for names in [[name] for name in options] if subject.made_by_forgather else [options]:
        changes = dict.fromkeys(options, 0.0) | dict.fromkeys(names, PROBABILITY)
        found: dict[str, list[DropoutCall]] = {}
        for attention in implementations(subject):
            what = f"{', '.join(names)}, {attention}"
            model = _model(subject, attention, changes)
            found[attention], random = yield from _check_model(what, model, subject.tokens(ROWS), subject.seed)
            if not found[attention] and random:
                unobserved.append(what)
            elif not found[attention] and subject.made_by_forgather:
                failure = f"{what}: it has no effect in training"
                yield expect(f"{what}: something is dropped in training", False, failure=failure)
        if len(found) == 2 and all(found.values()):
            yield _same_place(", ".join(names), found["eager"], found["sdpa"])
    yield from _check_recomputation(subject, dict.fromkeys(options, PROBABILITY))
    if unobserved:
        yield Details({"random without torch's dropout functions": unobserved})


def _model(subject: ModelUnderTest, attention: str, changes: dict[str, float]) -> Any:
    config = subject.constructed(subject.no_dropout | changes)  # some models have dropout fields with other names, too
    return subject.randomized(subject.fresh_model_of(config, attention=attention))


@torch.no_grad()
def _check_model(
    what: str, model: Any, text: Tensor, seed: int
) -> Generator[Measured, None, tuple[list[DropoutCall], bool]]:
    """Check one model; return the calls that drop elements in training, and whether other functions are random."""
    with recorded_dropout(model.eval()) as calls:
        plain = model(text, use_cache=False).logits
    dropping = [call for call in calls if call.drops]
    where = dropping[0].where if dropping else None
    failure = f"{what}: it is active in evaluation"
    yield expect(f"{what}, eval: nothing is dropped", not dropping, where, failure=failure)
    torch.manual_seed(seed)
    with recorded_dropout(model.train(), identity=True):
        one, two = (model(text, use_cache=False).logits for _ in range(2))
    random = not torch.equal(one, two)
    if not random:  # otherwise a function that is not recorded drops elements
        failure = f"{what}: training differs from evaluation by more than dropout, such as a scale"
        error = relative_difference(one, plain)
        yield Measured(f"{what}, training with all dropouts replaced by the identity", error, 0.0, None, failure)
    passes = []
    for _ in range(2):
        with recorded_dropout(model) as calls:
            model(text, use_cache=False)
        passes.append([call for call in calls if call.drops])
    if passes[0]:
        yield from _check_calls(what, passes)
        yield _same_in_layers(what, model, _counts(passes[0]), calls_of_layers(model.eval(), text))
    return passes[0], random


def _check_calls(what: str, passes: Sequence[list[DropoutCall]]) -> Iterator[Measured]:
    """Check the probability, the scale and the mask of each call, and that no two masks are related."""
    for call in passes[0]:
        if call.dropout_p is not None:
            failure = f"{what}: expected dropout_p={PROBABILITY} in sdpa, got {call.dropout_p:g}"
            yield Measured(f"{what}: dropout_p", abs(call.dropout_p - PROBABILITY), 1e-6, call.where, failure)
    masks = [Mask(call) for calls in passes for call in calls if call.dropout_p is None]
    if not masks:
        return
    dropped, count = sum(mask.dropped for mask in masks), sum(mask.count for mask in masks)
    failure = f"{what}: expected a share of zeros of {PROBABILITY}, got {dropped / max(count, 1):.3f}"
    error = share_error(dropped, count, PROBABILITY)
    yield Measured(f"{what}: share of zeros of all calls, in standard errors", error, SIGMAS, None, failure)
    error, worst = _largest((share_error(mask.dropped, mask.count, PROBABILITY), mask) for mask in masks)
    failure = f"{what}: expected a share of zeros of {PROBABILITY}, got {worst.dropped / max(worst.count, 1):.3f}"
    yield Measured(f"{what}: share of zeros, in standard errors", error, SIGMAS, worst.call.where, failure)
    error, worst = _largest((mask.scale_error(1 / (1 - PROBABILITY)), mask) for mask in masks)
    failure = f"{what}: kept elements are not divided by 1 - p"
    yield Measured(f"{what}: scale of kept elements", error, _ROUNDING, worst.call.where, failure)
    error, (worst, axis) = _largest((error, (mask, axis)) for mask in masks for error, axis in mask.along_axes())
    failure = f"{what}: the mask is not elementwise: it repeats along the dimension of {axis}"
    label = f"{what}: correlation of elements, in standard errors"
    yield Measured(label, error, MAX_CORRELATION, worst.call.where, failure)
    if correlated := most_correlated(masks):
        error, first, second = correlated
        both = f"two calls in {first.where}" if first.where == second.where else f"{first.where} and {second.where}"
        failure = f"{what}: two calls drop the same elements"
        yield Measured(f"{what}: correlation of masks, in standard errors", error, MAX_CORRELATION, both, failure)


def _largest(errors: Iterable[tuple[float, T]]) -> tuple[float, T]:
    """Return the largest error with its place; NaN counts as the largest."""
    return max(errors, key=lambda one: math.inf if math.isnan(one[0]) else one[0])


def _counts(calls: Sequence[DropoutCall]) -> Counter[int | None]:
    return Counter(call.layer for call in calls)


def _same_in_layers(what: str, model: Any, counts: Counter[int | None], passes: list[int]) -> Measured:
    """Compare the number of calls of all layers with the same kinds of weights and submodules.

    Args:
        what: The case.
        model: The model.
        counts: The number of dropout calls by layer.
        passes: How often each layer runs.
    """
    kinds: dict[tuple[str, ...], list[int]] = {}
    for index, layer in enumerate(layers_of(model)):
        parts = [type(part).__name__ for part in layer.modules() if next(part.parameters(), None) is not None]
        kinds.setdefault(tuple(parts), []).append(index)
    groups = [[(counts.get(index, 0) / max(passes[index], 1), index) for index in layers] for layers in kinds.values()]
    wrong = next((group for group in groups if max(group)[0] != min(group)[0]), None)
    where = ", ".join(f"layer {index}: {count:g} calls" for count, index in wrong) if wrong else None
    failure = f"{what}: the number of dropout calls differs between layers"
    return expect(f"{what}: every layer has the same number of dropout calls", wrong is None, where, failure=failure)


def _same_place(what: str, eager: Sequence[DropoutCall], sdpa: Sequence[DropoutCall]) -> Measured:
    """Check that both have the same calls per layer, and that eager drops attention weights [..., T, T] for sdpa's."""
    weights = Counter(c.layer for c in eager if c.before is not None and c.before.shape[-2:] == (LENGTH, LENGTH))
    in_sdpa = Counter(c.layer for c in sdpa if c.dropout_p)
    holds = _counts(eager) == _counts(sdpa) and all(weights[layer] >= count for layer, count in in_sdpa.items())
    counts = f"sdpa: {len(sdpa)} calls; eager: {len(eager)} calls, {weights.total()} of them drop attention weights"
    failure = f"{what}: eager does not drop attention weights where sdpa does"
    return expect(f"{what}: eager drops where sdpa does", holds, counts, failure=failure)


def _check_recomputation(subject: ModelUnderTest, changes: dict[str, float]) -> Iterator[Measured]:
    """Compare loss and gradients with those of gradient checkpointing, with dropout and the same seed."""
    text = subject.tokens(2)
    for attention in implementations(subject):
        model = _model(subject, attention, changes)
        if not model.supports_gradient_checkpointing:
            return
        loss, gradients = _step(model, text, **AS_RECOMPUTED)
        for reentrant in (False, True):
            with warnings.catch_warnings(action="ignore"):
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
                repeated = _step(model, text)
                model.gradient_checkpointing_disable()
            what = f"gradient checkpointing with dropout, {attention}, {'' if reentrant else 'not '}reentrant"
            tolerance = rounding(model) if reentrant and rounds_reentrant(subject, attention) else 0.0
            yield compare(f"{what}: loss", repeated[0], loss, tolerance)
            yield compare_gradients(f"{what}: gradients", repeated[1], gradients, tolerance)


def _step(model: Any, text: Tensor, **more: Any) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    return loss_and_gradients(model, input_ids=text, labels=text, **more)
