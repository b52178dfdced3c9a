"""Attention backends: eager, sdpa, flex_attention and flash attention compute the same model.

eager is the reference. The logits of the others must equal its logits with every kind of mask (causal, sliding window,
padding, packed documents, with a cache), and the gradients of sdpa must equal its gradients. flex_attention runs
without compilation, which is slow. Its masks and biases are the same. Flash attention requires a GPU: its functions run
in plain torch, and receive the arguments that they receive there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from ..definitions import contracts
from ..definitions.check import Details, DoesNotApply, Measured, check, expect
from ..errors import first_line
from .shared.attention_calls import recorded_calls
from .shared.cached_forward import UNEQUAL, empty_cache, forward_in_chunks, has_positions, taken
from .shared.compared_gradients import Recomputation, compare_gradients, limit_of_amplification, loss_gradients
from .shared.implementations import can_exchange_attention, forward_implementations, uncompiled_flex
from .shared.inputs import packed_rows, padded_labels, padded_rows, real_positions
from .shared.layers import is_recurrent, layers_of
from .shared.model_under_test import FLEX, LENGTH, ModelUnderTest
from .shared.plain_flash import FLASH, plain_flash
from .shared.tolerance import compare, rounding

_ARGUMENT = "max_length_q"  # for flash attention; others ignore it
_EXPERTS = ("eager", "batched_mm", "grouped_mm")
PACKED, PADDED_DOCUMENTS = "packed documents", "packed documents, padding on the right"


@check("attention-backends", cause="a mask, bias or scaling that one implementation does not receive")
def attention_backends(subject: ModelUnderTest) -> Iterator[Measured | Details]:
    """Every attention implementation gives the same logits and gradients as eager, with every kind of mask."""
    if "eager" not in subject.refused_attention:
        yield from _compare_experts(subject)
    names = forward_implementations(subject)
    if "sdpa" in names:
        yield from _check_arguments_arrive(subject)
    if "eager" in names and _supports_flash(subject):
        names.append(FLASH)
    if "eager" not in names or len(names) < 2:
        available = ", ".join(names) or "none"
        raise DoesNotApply(f"the comparison requires eager and another implementation; available: {available}")
    with _model(subject, "eager") as model:
        tolerance = rounding(model)
        expected = _logits(subject, model)
    inputs = _training_inputs(subject)
    with _model(subject, "eager", **subject.no_dropout) as model:
        gradients = {what: loss_gradients(model.train(), **one) for what, one in inputs.items()}
    for attention in names:
        if attention == "eager":
            continue
        try:
            with uncompiled_flex(attention), _model(subject, attention) as model:
                found = _logits(subject, model)
        except Exception as error:
            # Some kernels of flex_attention require a GPU, and some classes refuse an implementation when they run.
            if subject.made_by_forgather or (attention != FLEX and "not supported" not in str(error)):
                raise
            yield Details({f"{attention} is not compared": first_line(error)})
            continue
        for what in _cases(subject, attention, expected):
            yield compare(f"{attention}, {what}", found[what], expected[what], tolerance)
        if attention != FLEX:  # it has no backward pass on CPU
            with _model(subject, attention, **subject.no_dropout) as model:
                for what in _cases(subject, attention, inputs):
                    compute = partial(loss_gradients, model.train(), **inputs[what])
                    limit = limit_of_amplification(model, own=subject.made_by_forgather)
                    recomputed = Recomputation(model, compute, limit=limit)
                    name = f"{attention}, {what}, gradients"
                    yield compare_gradients(name, compute(), gradients[what], tolerance, recomputed)


@torch.no_grad()
def _compare_experts(subject: ModelUnderTest) -> Iterator[Measured]:
    """Compare the implementations of experts that transformers offers for the class."""
    model = subject.randomized_model()
    if not getattr(model, "_can_set_experts_implementation", lambda: False)():
        return
    text, found = subject.tokens(2), {}
    for name in _EXPERTS:
        try:
            model.set_experts_implementation(name)
        except (ValueError, ImportError):
            continue  # the release or the class does not have it
        try:
            found[name] = model(text, use_cache=False).logits
        except NotImplementedError:
            continue  # the device does not have it
    for name in list(found)[1:]:
        yield compare(f"experts computed by {name}", found[name], found[next(iter(found))], rounding(model))


@torch.no_grad()
def _check_arguments_arrive(subject: ModelUnderTest) -> Iterator[Measured]:
    """Check that the keyword arguments that transformers documents for attention reach all layers."""
    model = subject.randomized_model(attention="sdpa")
    if not any(one.kind is Parameter.VAR_KEYWORD for one in signature(model.forward).parameters.values()):
        return
    with recorded_calls("sdpa") as calls:
        model(subject.tokens(2), use_cache=False, **{_ARGUMENT: LENGTH})
    inside = set(layers_of(model).modules())
    own = [arguments for module, arguments in calls if module in inside]
    if own:
        without = sum(_ARGUMENT not in arguments for arguments in own)
        failure = f"the argument {_ARGUMENT} of a call does not reach {without} of {len(own)} calls of attention"
        yield expect(f"{_ARGUMENT} reaches all layers", not without, failure=failure)


def _supports_flash(subject: ModelUnderTest) -> bool:
    """Return whether the model supports flash attention, and reads its implementation at each call."""
    built = subject.on_meta()
    if not subject.made_by_forgather and any("sink" in name for name, _ in built.named_parameters()):
        return False  # flash-attn computes none
    model = type(built)
    refused = contracts.unsupported_attention(subject.config())
    return getattr(model, "_supports_flash_attn", False) and FLASH not in refused and can_exchange_attention(model)


@contextmanager
def _model(subject: ModelUnderTest, attention: str, **changes: Any) -> Iterator[Any]:
    """Provide the model with an attention implementation."""
    if attention != FLASH:
        yield subject.randomized_model(attention=attention, **changes)
        return
    with plain_flash(subject.randomized_model(attention="eager", **changes)) as model:
        yield model


def _cases(subject: ModelUnderTest, attention: str, cases: Iterable[str]) -> list[str]:
    """Return the cases that an implementation supports.

    transformers detects packing only without a mask, and for flash attention only in batches of one row.
    """
    if subject.made_by_forgather:
        return list(cases)
    unsupported = (PADDED_DOCUMENTS, PACKED) if attention == FLASH else (PADDED_DOCUMENTS,)
    return [what for what in cases if what not in unsupported]


@torch.no_grad()
def _logits(subject: ModelUnderTest, model: Any) -> dict[str, Tensor]:
    """Return the logits of each case; 0 on padding."""
    text = subject.tokens(2)
    found = {"causal" if subject.window is None else "sliding window": model(text, use_cache=False).logits}
    found["mask of ones"] = model(text, attention_mask=torch.ones_like(text)).logits
    for side in ("left", "right"):
        ids, mask = padded_rows(subject, side)
        logits = model(ids, attention_mask=mask, **taken(model, position_ids=real_positions(mask))).logits
        found[f"padding on the {side}"] = torch.where(mask.bool()[..., None], logits, 0.0)
    ids, mask = padded_rows(subject, "left")
    cache = empty_cache("dynamic", model)
    logits, _ = forward_in_chunks(model, ids, UNEQUAL, cache, mask, position_ids=real_positions(mask))
    if not is_recurrent(model):  # such layers skip padding in the first chunk only
        found["padding on the left, with a cache, in unequal chunks"] = torch.where(mask.bool()[..., None], logits, 0.0)
    found["with a cache, in unequal chunks"], _ = forward_in_chunks(model, text, UNEQUAL, empty_cache("dynamic", model))
    if not has_positions(subject, model):
        return found
    documents, position_ids = packed_rows(subject)
    found[PACKED] = model(documents, position_ids=position_ids, use_cache=False).logits
    mask = torch.ones_like(documents)
    mask[0, -4:], mask[1, -1:] = 0, 0  # the end of the last document
    logits = model(documents, attention_mask=mask, position_ids=position_ids, use_cache=False).logits
    found[PADDED_DOCUMENTS] = torch.where(mask.bool()[..., None], logits, 0.0)
    return found


def _training_inputs(subject: ModelUnderTest) -> dict[str, dict[str, Any]]:
    """Return the inputs of each case with gradients."""
    text, (documents, position_ids) = subject.tokens(2), packed_rows(subject)
    ids, mask = padded_rows(subject, "left")
    cases = {
        "no mask": {"input_ids": text, "labels": text},
        "padding": {"input_ids": ids, "attention_mask": mask, "labels": padded_labels(ids, mask)},
    }
    if has_positions(subject, subject.on_meta()):
        cases[PACKED] = {"input_ids": documents, "position_ids": position_ids, "labels": documents}
    return {what: {**inputs, "use_cache": False} for what, inputs in cases.items()}
