"""The layers of a model of any architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...definitions.check import DoesNotApply

if TYPE_CHECKING:
    from .model_under_test import ModelUnderTest


_STATES = ("linear", "mamba", "conv", "hybrid", "recurrent")


def layers_of(model: Any) -> nn.ModuleList:
    """Return the first module list with `num_hidden_layers` modules, or else the longest one.

    Raises:
        DoesNotApply: The model has no module list.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise DoesNotApply("the model has no list of layers")
    depth = model.config.get_text_config().num_hidden_layers
    return next((found for found in lists if len(found) == depth), max(lists, key=len))


@torch.no_grad()
def calls_of_layers(model: Any, text: Tensor) -> list[int]:
    """Return the number of times that a forward pass calls each layer: more than one in a loop of layers."""
    layers = layers_of(model)
    calls = [0] * len(layers)

    def counting(index: int) -> Callable[..., None]:
        def count(*_: Any) -> None:
            calls[index] += 1

        return count

    hooks = [layer.register_forward_hook(counting(index)) for index, layer in enumerate(layers)]
    try:
        model(text, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def is_recurrent(model: Any) -> bool:
    """Return whether some layers keep a state instead of keys: transformers marks most of these classes."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ()
    return bool(getattr(model, "_is_stateful", False)) or any(
        isinstance(kind, str) and kind.startswith(_STATES) for kind in kinds
    )


def selects_keys(subject: ModelUnderTest) -> bool:
    """Return whether some layers attend to keys that an index selects, which makes a mask of its own."""
    return "indexed_attention" in (getattr(subject.text_config, "layer_types", None) or ())


def windows_of(subject: ModelUnderTest) -> tuple[int | None, ...]:
    """Return the sliding window of each layer; None for a layer without one."""
    kinds = getattr(subject.text_config, "layer_types", None)
    if not kinds:
        count: int = subject.text_config.num_hidden_layers
        return (subject.window,) * count
    return tuple(subject.window if kind == "sliding_attention" else None for kind in kinds)
