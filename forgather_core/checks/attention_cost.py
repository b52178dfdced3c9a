"""Attention cost: a call runs no operator that it does not need.

The FLOPs of products with weights are counted by operator, so the result does not depend on timing or machine load.
Products of queries, keys and values are not counted: their cost may grow with the square of the length.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..definitions.check import Measured, check, expect
from ..training.loss import can_skip_logits
from .shared.cached_forward import cache_argument, empty_cache, taken
from .shared.implementations import implementations
from .shared.layers import selects_keys, windows_of
from .shared.model_under_test import LENGTH, ModelUnderTest
from .shared.operators import SdpaMasks, TensorsMade, weight_flops

ROWS = 2
MIN_CHUNK, MAX_CHUNK = 256, 1024  # a chunk of the loss has as many tokens as the hidden size, within these bounds


@check(
    "attention-cost",
    cause="a mask that is always created, cached tokens that are projected again, or a head applied to all tokens",
)
def attention_cost(subject: ModelUnderTest) -> Iterator[Measured]:
    """Attention receives a mask only if it needs one, and everything else is computed for new tokens only."""
    for attention in implementations(subject):
        model = subject.randomized_model(attention=attention)
        if attention == "sdpa" and not selects_keys(subject):
            frozen = subject.randomized_model(attention=attention).requires_grad_(False)
            yield from _check_masks(subject, frozen)  # ModuleTracker fails on views of weights that have gradients
        yield from _check_products(subject, model, attention)
    if can_skip_logits(model):
        yield from _check_chunked_loss(subject, model.train())


@torch.no_grad()
def _check_masks(subject: ModelUnderTest, model: Any) -> Iterator[Measured]:
    """Check that sdpa receives no mask in calls that need none: a text shorter than any window, without padding."""
    length = min([LENGTH, *(window - 1 for window in windows_of(subject) if window is not None)])
    if length < 2:
        return
    text = subject.tokens(ROWS, length)
    ones, position_ids = torch.ones_like(text), torch.arange(length).expand(ROWS, -1)
    last = {"attention_mask": ones, "position_ids": position_ids[:, -1:]}
    cases: list[tuple[str, dict[str, Any], bool]] = [
        ("a text", {}, False),
        ("a text with a mask of ones", {"attention_mask": ones}, False),
        ("a text as generate() passes it", {"attention_mask": ones, "position_ids": position_ids}, False),
        ("one token with a cache", {}, True),
        ("one token with a cache, as generate() passes it", last, True),
    ]
    for what, more, decode in cases:
        cache: dict[str, Any] = {}
        if decode:
            cache = {cache_argument(model): empty_cache("dynamic", model), "use_cache": True}
            model(text[:, :-1], **cache)
        with SdpaMasks() as masks:
            model(text[:, -1:] if decode else text, **taken(model, **more), **cache)
        failure = f"sdpa, {what}: scaled_dot_product_attention receives a mask that hides at most later keys"
        where = f"{masks.unneeded[0]} ({len(masks.unneeded)} of {masks.calls} calls)" if masks.unneeded else None
        yield expect(f"sdpa, {what}: no mask", not masks.unneeded, where, failure=failure)
        failure = f"sdpa, {what}: scaled_dot_product_attention is not called"
        yield expect(f"sdpa, {what}: called", masks.calls > 0, failure=failure)


@torch.no_grad()
def _check_products(subject: ModelUnderTest, model: Any, attention: str) -> Iterator[Measured]:
    """Check the FLOPs of products with weights."""
    text = subject.tokens(ROWS, LENGTH)

    # Of some classes, a token may be routed to an expert that needs no products.
    free = not subject.made_by_forgather and getattr(subject.text_config, "zero_expert_num", None)

    def counted(call: Callable[[], Any]) -> Counter[str]:
        found = weight_flops(model, call)
        return Counter({name: n for name, n in found.items() if not (free and ".experts." in name)})

    def flops(length: int, **more: Any) -> Counter[str]:
        return counted(lambda: model(text[:, :length], use_cache=False, **more))

    one, half, whole = flops(1), flops(LENGTH // 2), flops(LENGTH)
    what = f"{attention}, products with weights"
    exact = subject.made_by_forgather  # recurrent layers of others read a text in blocks, with fewer products
    yield _compare(f"{what}, twice as many tokens", whole, half, 2, exact=exact)
    yield _compare(f"{what}, {LENGTH} tokens and one", whole, one, LENGTH, exact=exact)
    for past in (1, LENGTH - 1):
        cache = {cache_argument(model): empty_cache("dynamic", model), "use_cache": True}
        model(text[:, :past], **cache)
        found = counted(lambda: model(text[:, past : past + 1], **cache))  # noqa: B023
        if (rank := getattr(subject.text_config, "kv_lora_rank", None)) is not None:
            # The cache has compressed keys, which each call expands.
            expanded = {name for name in found if model.get_parameter(name).shape[-1] == rank}
            found = Counter({name: one[name] if name in expanded else count for name, count in found.items()})
        yield _compare(f"{what}, one token after {past} in a cache", found, one, 1, exact=exact)
    head = model.get_output_embeddings()
    if head is None or "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return
    names = [name for name, parameter in model.named_parameters() if parameter is getattr(head, "weight", None)]
    expected = Counter({name: one[name] for name in names if one[name]})
    if expected:
        kept = flops(LENGTH, logits_to_keep=1)
        found = Counter({name: kept[name] for name in expected})
        yield _compare(f"{attention}, products of the head, logits_to_keep=1", found, expected, 1)


def _compare(what: str, found: Counter[str], one: Counter[str], factor: int, *, exact: bool = True) -> Measured:
    """Compare FLOPs with `factor` times those in `one`; name the first parameters whose products differ.

    Args:
        what: The case.
        found, one: FLOPs by the name of the parameter.
        factor: The expected ratio.
        exact: Whether fewer products fail, too.
    """
    if not exact:
        found = Counter({name: max(found[name], factor * one[name]) for name in found.keys() | one.keys()})
    wrong = [name for name in sorted(found.keys() | one.keys()) if found[name] != factor * one[name]]
    total, expected = found.total(), factor * one.total()
    error = abs(total - expected) / expected if expected else float("nan")
    failure = f"{what}: {total} FLOPs, expected {expected}" if expected else f"{what}: no product was counted"
    names = ", ".join(f"{name} ({found[name] / (factor * one[name] or 1):.3g} times)" for name in wrong[:3])
    return Measured(what, max(error, float(bool(wrong)) * 1e-9), 0.0, names or None, failure)


def _check_chunked_loss(subject: ModelUnderTest, model: Any) -> Iterator[Measured]:
    """Check that the chunked loss never materializes the full logits, in forward or backward, with several chunks."""
    head = model.get_output_embeddings()
    if getattr(head, "weight", None) is None:
        return
    vocabulary, size = head.weight.shape
    others = {n for p in model.parameters() if p.shape != head.weight.shape for n in p.shape}
    if vocabulary in others:
        return  # an activation of the same width would be taken for logits
    rows = -(-(2 * min(max(size, MIN_CHUNK), MAX_CHUNK) + MIN_CHUNK) // LENGTH)
    text = subject.tokens(rows, LENGTH)
    weight = tuple(head.weight.shape)
    with TensorsMade(vocabulary, (text.numel() - rows) * vocabulary, (weight, weight[::-1])) as made:
        model(text, labels=text, use_cache=False, skip_logits=True).loss.backward()
    what = f"the chunked loss of {text.numel()} tokens: the full logits are never materialized"
    count = f"{len(made.found)} tensors as large as the full logits"
    failure = f"the chunked loss of {text.numel()} tokens materializes {count}"
    yield expect(what, not made.found, made.found[0] if made.found else None, failure=failure)
