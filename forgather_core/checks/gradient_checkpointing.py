"""Gradient checkpointing: layers are recomputed, and the result does not change.

Loss and gradients must be equal to the last bit, dropout included, since the same operations run on the same numbers.
The exception is reentrant checkpointing, see `rounds_reentrant`. Calls within the layers are counted: each layer runs
in the forward pass, and again in the backward pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..model.difference import relative_difference
from .shared.compared_gradients import compare_gradients, loss_and_gradients
from .shared.implementations import implementations
from .shared.layers import layers_of
from .shared.model_under_test import ModelUnderTest
from .shared.tolerance import rounding

# Checkpointing turns the cache off. A cache copies keys and values to memory of another layout, of which products may
# round differently.
AS_RECOMPUTED = {"use_cache": False}
StepResult = tuple[Tensor, dict[str, Tensor], list[int]]  # loss, gradients, calls of each layer


@check("gradient-checkpointing", cause="an option that is accepted and has no effect, or layers that keep a state")
def gradient_checkpointing(subject: ModelUnderTest) -> Iterator[Measured]:
    """Gradient checkpointing computes every layer twice, and loss and gradients are equal to the last bit."""
    text = subject.tokens(2)
    for attention in implementations(subject):
        model = subject.randomized_model(attention=attention).train()
        if not model.supports_gradient_checkpointing:
            raise DoesNotApply("supports_gradient_checkpointing of the model is false")
        layers = layers_of(model)
        loss, gradients, calls = _step(model, layers, text, **AS_RECOMPUTED)
        for reentrant in (False, True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # deprecated in newer releases
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
                repeated = _step(model, layers, text)
                model.gradient_checkpointing_disable()
            what = f"{attention}, {'reentrant' if reentrant else 'not reentrant'}"
            tolerance = rounding(model) if reentrant and rounds_reentrant(subject, attention) else 0.0
            yield Measured(f"{what}: loss", relative_difference(repeated[0], loss), tolerance)
            yield compare_gradients(f"{what}: gradients", repeated[1], gradients, tolerance)
            once = [index for index, (n, m) in enumerate(zip(repeated[2], calls, strict=True)) if n != 2 * m or not m]
            counts = ", ".join(f"layer {index}: {repeated[2][index]} calls for {calls[index]}" for index in once)
            failure = f"{what}: expected every layer to be computed twice, got {counts}"
            yield expect(f"{what}: every layer is computed twice", not once, failure=failure)
        found = _step(model, layers, text)
        failure = f"{attention}, disabled: expected {calls} calls of the layers, got {found[2]}"
        yield expect(f"{attention}, disabled: every layer is computed once", found[2] == calls, failure=failure)


def rounds_reentrant(subject: ModelUnderTest, attention: str) -> bool:
    """Return whether reentrant checkpointing rounds differently.

    sdpa does if no gradients are required. A tensor that several layers read, as in some classes of others, gets their
    gradients in another order.
    """
    return attention != "eager" or not subject.made_by_forgather


def _step(model: Any, layers: nn.ModuleList, text: Tensor, **more: Any) -> StepResult:
    """Return the loss, all gradients, and the number of calls of each layer."""
    calls: list[dict[nn.Module, int]] = [{} for _ in layers]

    def counting(index: int) -> Any:
        def count(module: nn.Module, *_: Any) -> None:
            calls[index][module] = calls[index].get(module, 0) + 1

        return count

    # Hooks of the modules in a layer: the layer's own hooks run outside of the recomputation.
    hooks = [
        module.register_forward_pre_hook(counting(index))
        for index, layer in enumerate(layers)
        for module in layer.children()
    ]
    torch.manual_seed(0)  # for dropout
    loss, gradients = loss_and_gradients(model, input_ids=text, labels=text, **more)
    for hook in hooks:
        hook.remove()
    # The first module that was called: torch ends the recomputation as soon as it has all the tensors that it needs.
    return loss, gradients, [next(iter(inner.values()), 0) for inner in calls]
