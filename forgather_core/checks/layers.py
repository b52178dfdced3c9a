"""The layers of a model of any make."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..definitions.check import DoesNotApply


def layers_of(model: Any) -> nn.ModuleList:
    """The first list of modules that is as long as the model is deep; where none is, the longest.

    Raises:
        DoesNotApply: It has no list of modules.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise DoesNotApply("the model has no list of layers")
    depth = model.config.get_text_config().num_hidden_layers
    return next((found for found in lists if len(found) == depth), max(lists, key=len))
