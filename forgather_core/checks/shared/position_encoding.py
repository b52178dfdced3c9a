"""The position encoding of a model, by the names of its modules and options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from .model_under_test import ModelUnderTest

_RELATIVE = re.compile(r"rotary|rope|alibi", re.IGNORECASE)
_ABSOLUTE = re.compile(r"(^|\.)(wpe|embed_positions?|position_embeddings?)$")
_LENGTH_DEPENDENT = ("dynamic", "longrope")  # RoPE types whose frequencies change beyond a length


def kind_of(model: Any) -> str | None:
    """Return whether a model's positions are "relative" or "absolute", by the names of modules and options."""
    names = [name for name, _ in model.named_modules()]
    types = [type(module).__name__ for module in model.modules()]
    config = model.config.get_text_config()
    if getattr(config, "alibi", False) or getattr(config, "rope_parameters", None):
        return "relative"
    if any(_RELATIVE.search(name) for name in (*names, *types)):
        return "relative"
    return "absolute" if any(map(is_position_table, names)) else None


def is_position_table(name: str) -> bool:
    """Return whether a module of this name is a table of positions."""
    return _ABSOLUTE.search(name) is not None


def last_position(subject: ModelUnderTest) -> int | None:
    """Return the number of positions of a model; None if they are unlimited.

    A table of positions with a row for padding, as RoBERTa has, numbers the others after it.
    """
    positions: int | None = getattr(subject.text_config, "max_position_embeddings", None)
    for name, module in subject.on_meta().named_modules():
        if not (is_position_table(name) and isinstance(module, nn.Embedding)):
            continue
        if module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
        positions = positions or module.num_embeddings
    return positions if positions is None or positions > 0 else None  # XLNet has -1


def switching_length(config: Any) -> int | None:
    """Return the length beyond which the frequencies of RoPE change; None if they depend on no length.

    Args:
        config: The text configuration.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") not in _LENGTH_DEPENDENT:
        return None
    return rope.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)


def rope_types(config: Any) -> Iterator[dict[str, Any]]:
    """Yield rope_parameters of the types that scale frequencies; none without RoPE.

    Args:
        config: The text configuration.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    head_dim = getattr(config, "head_dim", None)
    if "rope_theta" not in rope or head_dim is None:
        return
    theta, size = {"rope_theta": rope["rope_theta"]}, head_dim // 2
    length = {"original_max_position_embeddings": config.max_position_embeddings // 2}
    yield {"rope_type": "linear", "factor": 4.0, **theta}
    yield {"rope_type": "dynamic", "factor": 4.0, **theta}
    yield {"rope_type": "yarn", "factor": 4.0, **length, **theta}
    yield {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **length, **theta}
    yield {"rope_type": "longrope", "short_factor": [1.5] * size, "long_factor": [3.0] * size, **length, **theta}
