"""The layers of a model of any architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

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


def is_recurrent(model: Any) -> bool:
    """Return whether some layers keep a state instead of keys: transformers marks most of these classes."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ()
    return bool(getattr(model, "_is_stateful", False)) or any(
        isinstance(kind, str) and kind.startswith(_STATES) for kind in kinds
    )


def windows_of(subject: ModelUnderTest) -> tuple[int | None, ...]:
    """Return the sliding window of each layer; None for a layer without one."""
    kinds = getattr(subject.text_config, "layer_types", None)
    if not kinds:
        count: int = subject.text_config.num_hidden_layers
        return (subject.window,) * count
    return tuple(subject.window if kind == "sliding_attention" else None for kind in kinds)
