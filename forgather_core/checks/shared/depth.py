"""The small configuration with another number of layers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle, islice
from typing import Any

import torch

from ...definitions.check import DoesNotApply
from ...model.shrink import plain_values
from ...model.shrink.sizes import Sizes
from .layers import layers_of
from .model_under_test import ModelUnderTest

DEPTH = "num_hidden_layers"


def of_depth(subject: ModelUnderTest, layers: int, first: int = 0) -> Any:
    """Return a configuration with this number of layers, which repeats the values of lists with one for each layer.

    Args:
        subject: The model under test.
        layers: The number of layers.
        first: The layer whose values come first.

    Raises:
        DoesNotApply: A model of another class has another depth: its configuration has more than one.
    """
    config, text = subject.config(), subject.text_config
    changes = _changes(plain_values(text), text.attribute_map, layers, first)
    derived = subject.underived()
    changes = {name: value for name, value in changes.items() if name not in derived} | derived
    part = next((n for n in config.sub_configs if getattr(config, n, None) is config.get_text_config()), None)
    if part is not None:
        changes = {part: text.to_dict() | changes}
    if subject.made_by_forgather:
        return subject.constructed(changes)
    try:
        deep = subject.constructed(changes)
        with torch.device("meta"):
            found = len(layers_of(subject.fresh_model_of(deep)))
    except Exception as error:  # the code of others may raise any exception
        raise DoesNotApply(f"{DEPTH} {layers} gives no model: {type(error).__name__}") from None
    if found != layers:
        raise DoesNotApply(f"{DEPTH} {layers} gives {found} layers")
    return deep


def _changes(content: Mapping[str, Any], names: Mapping[str, str], layers: int, first: int) -> dict[str, Any]:
    own = names.get(DEPTH, DEPTH)
    if own not in content:
        return {own: layers}
    sizes, depth = Sizes(content, names), content[own]
    lists = {name: list(islice(cycle(old), first, first + layers)) for name, old in sizes.lists(depth).items()}
    indices = {
        name: [new for new in range(layers) if (first + new) % depth in old] for name, old in sizes.indices().items()
    }
    return {own: layers} | lists | indices
