"""Call state: a call of a model leaves its arguments, the model and the process as they were.

The calls may leave state behind: another length, packed documents, caches, autocast, a training step, an error, an
interruption in the last layer. The state before and after each call is compared, and the plain call is repeated. Live
tensors are counted after calls with new lengths: a cache with an entry for each shape would grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import Measured, check, expect
from .shared.cached_forward import taken
from .shared.implementations import forward_implementations, uncompiled_flex
from .shared.inputs import padded_labels, padded_rows, real_positions
from .shared.model_under_test import FLEX, ModelUnderTest
from .shared.process_state import LiveTensors, Snapshot, attribute_of
from .shared.state_calls import Call, autocast, calls_of, lengths_of, plain_call, training_step
from .shared.tolerance import compare, different_tensors

DROPOUT = 0.3


@check(
    "call-state",
    cause="a cache or counter in a module, an in-place operation on an argument, or a global setting",
    quick=False,
)
def call_state(subject: ModelUnderTest) -> Iterator[Measured]:
    """A call does not change its arguments, the model, global settings, or the results and memory of later calls."""
    with LiveTensors() as live:
        for attention in forward_implementations(subject):
            with uncompiled_flex(attention):
                model = subject.randomized_model(attention=attention, **subject.no_dropout)
                calls = calls_of(subject, attention)
                yield from _check_calls(subject, model, attention, calls)
                yield from _check_arguments(subject, attention)
                if subject.no_dropout and attention != FLEX:
                    yield _check_evaluation_with_dropout(subject, attention)
                yield from _check_memory(subject, model, attention, live)


def _check_arguments(subject: ModelUnderTest, attention: str) -> Iterator[Measured]:
    """Check that the tensors that a caller passes keep their values, in evaluation and in training with dropout."""
    options: dict[str, Any] = dict.fromkeys(subject.no_dropout, 0.0 if attention == FLEX else DROPOUT)
    model = subject.randomized_model(attention=attention, **options)
    ids, mask = padded_rows(subject, "left")
    more = {"attention_mask": mask, "labels": padded_labels(ids, mask)}
    more |= taken(model, position_ids=real_positions(mask))
    inputs = {"input_ids": ids}, {"inputs_embeds": model.get_input_embeddings()(ids).detach()}
    for training in (False, True):
        backward = training and attention != FLEX
        for first in inputs:
            before = first | more
            arguments = {name: one.clone() for name, one in before.items()}
            with torch.set_grad_enabled(backward):
                loss = model.train(training)(**arguments, use_cache=not training).loss
            if backward:
                loss.backward()
                model.zero_grad(set_to_none=True)
            changed = different_tensors(arguments, before)
            what = f"{attention}, {'training' if training else 'evaluation'} with {next(iter(first))}"
            failure = f"{what} changes the caller's {', '.join(changed)}"
            yield expect(f"{what}: the arguments keep their values", not changed, failure=failure)


def _check_calls(subject: ModelUnderTest, model: Any, attention: str, calls: Mapping[str, Call]) -> Iterator[Measured]:
    """Check the state before and after each call, and that the plain call has the same result after it."""
    text = subject.tokens(2)
    plain = None
    for name, call in calls.items():
        with torch.set_grad_enabled(attention != FLEX):
            before = Snapshot.of(model)
            call(model)
            changes = before.changes(Snapshot.of(model))
        with torch.no_grad():
            repeated = model(text).logits
        what = f"{attention}, {name}"
        failure = f"{what}: the call {'; '.join(changes)}"
        yield expect(f"{what}: model and process are unchanged", not changes, failure=failure)
        if plain is None:  # the first call is the plain one
            plain = repeated
            with torch.no_grad():
                repeated = model(text).logits
        found = compare(f"{attention}, the plain call after {name}", repeated, plain)
        failure = f"{attention}, {name} changes the logits of the next call by {found.error:.2g}"
        yield Measured(found.what, found.error, 0.0, found.where, failure)


@torch.no_grad()
def _check_evaluation_with_dropout(subject: ModelUnderTest, attention: str) -> Measured:
    """Check that a model with dropout changes nothing in evaluation."""
    options: dict[str, Any] = dict.fromkeys(subject.no_dropout, DROPOUT)
    model = subject.randomized_model(attention=attention, **options)
    before = Snapshot.of(model)
    model(subject.tokens(2))
    changes = before.changes(Snapshot.of(model))
    what = f"{attention}, evaluation of a model with dropout"
    failure = f"{what}: the call {'; '.join(changes)}"
    return expect(f"{what}: model and process are unchanged", not changes, failure=failure)


def _check_memory(subject: ModelUnderTest, model: Any, attention: str, live: LiveTensors) -> Iterator[Measured]:
    """Check that no tensor remains after calls with new lengths; the first call has the longest text.

    A table of positions may grow to the longest text.
    """
    *growing, longest = (subject.tokens(2, length) for length in lengths_of(subject))
    kinds: dict[str, Callable[[Any, Tensor], object]] = {"evaluation": plain_call, "bfloat16 autocast": autocast}
    if attention != FLEX:
        kinds["training"] = training_step
    for name, call in kinds.items():
        with torch.no_grad():
            call(model, longest)
            before = live.storages()
            for text in growing:
                call(model, text)
            after = live.storages()
        # Not the difference of the totals: a tensor that each call replaces may become smaller.
        remaining = sum(size for address, (size, _) in after.items() if address not in before)
        new = sorted((after[one] for one in after.keys() - before.keys()), reverse=True)
        holders = (attribute_of(model, one) for one in after.keys() - before.keys())
        holder = next(filter(None, holders), "no module")
        where = f"{len(new)} new tensors, such as {new[0][1]}; held by {holder}" if new else None
        what = f"{attention}, {name}, {len(growing)} calls of other lengths"
        failure = f"{what}: {remaining} bytes of tensors remain after the outputs are deleted"
        yield Measured(f"{what}: no tensor remains", float(remaining), 0.0, where, failure)
