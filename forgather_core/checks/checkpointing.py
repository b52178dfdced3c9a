"""Gradient checkpointing: recomputing what a layer computed changes nothing, and is really done.

Loss and gradients must be the same to the last bit, dropout included, since the same operations are done on the same
numbers. sdpa takes another way where nothing asks for gradients, as the first pass of the reentrant kind is: it rounds
otherwise. Calls within the layers are counted: with checkpointing each is computed in the forward pass and again in the
backward pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..definitions.check import DoesNotApply, Measured, check, expect
from .attentions import implementations
from .layers import layers_of
from .subject import ModelUnderTest
from .tolerance import gradients_compared, gradients_of, relative, rounding

Step = tuple[Tensor, dict[str, Tensor], list[int]]


@check("gradient-checkpointing", cause="an option that is accepted and does nothing, or layers that keep a state")
def checkpointing(subject: ModelUnderTest) -> Iterator[Measured]:
    """Gradient checkpointing computes every layer twice, and loss and gradients are the same to the last bit."""
    text = subject.tokens(2)
    for attention in implementations(subject):
        model = subject.model(attention=attention).train()
        if not model.supports_gradient_checkpointing:
            raise DoesNotApply("the model says that it does not support it (supports_gradient_checkpointing)")
        layers = layers_of(model)
        loss, gradients, calls = _step(model, layers, text)
        for reentrant in (False, True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # newer releases call it by another name
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
                again = _step(model, layers, text)
                model.gradient_checkpointing_disable()
            what = f"{attention}, {'reentrant' if reentrant else 'not reentrant'}"
            rounds = reentrant and attention != "eager"
            tolerance = rounding(model) if rounds else 0.0
            yield Measured(f"{what}: loss", relative(again[0], loss), tolerance)
            yield gradients_compared(f"{what}: gradients", again[1], gradients, tolerance)
            once = [index for index, (n, m) in enumerate(zip(again[2], calls, strict=True)) if n != 2 * m or not m]
            where = ", ".join(f"layer {index}: {again[2][index]} calls, {calls[index]} without" for index in once)
            yield expect(f"{what}: every layer is computed twice", not once, where)
        found = _step(model, layers, text)
        yield expect(f"{attention}: disabled, layers are computed once", found[2] == calls, str(found[2]))


def _step(model: Any, layers: nn.ModuleList, text: Tensor) -> Step:
    """The loss, all gradients, and how often each layer was called."""
    calls: list[dict[nn.Module, int]] = [{} for _ in layers]

    def counting(index: int) -> Any:
        def count(module: nn.Module, *_: Any) -> None:
            calls[index][module] = calls[index].get(module, 0) + 1

        return count

    # Of the modules in a layer: a layer's own hooks are called outside of what is computed again.
    hooks = [
        module.register_forward_pre_hook(counting(index))
        for index, layer in enumerate(layers)
        for module in layer.children()
    ]
    model.zero_grad()
    torch.manual_seed(0)  # of dropout
    loss = model(text, labels=text).loss
    loss.backward()
    for hook in hooks:
        hook.remove()
    # The first one that was called: torch ends a second pass as soon as it has all that it needs.
    return loss.detach(), gradients_of(model), [next(iter(inner.values()), 0) for inner in calls]
