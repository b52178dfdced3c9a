"""Other values of an option, which show whether the option has an effect."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Literal

from ...option import METADATA_KEY

Values = Mapping[str, Any]


def other_values(option: Any, value: Any) -> Iterator[Values]:
    """Yield other values that an option may accept, those most likely to have an effect first.

    Args:
        option: The option, as a dataclass field.
        value: Its current value.
    """
    complaint = getattr(option.metadata[METADATA_KEY], "complaint", lambda _: None)
    yield from ({option.name: other} for other in alternatives(value, option.type) if complaint(other) is None)


def alternatives(value: Any, kind: Any) -> Iterator[Any]:
    """Yield values of a type that differ from the current value."""
    yield from (other for other in _candidates(value, kind) if other != value)


def _candidates(value: Any, kind: Any) -> Iterator[Any]:
    kinds = [kind, *(typing.get_args(kind) if isinstance(kind, UnionType) or _is_union(kind) else ())]
    yield from (choice for k in kinds if typing.get_origin(k) is Literal for choice in typing.get_args(k))
    if isinstance(value, bool) or (value is None and bool in kinds):
        yield from (True, False)
    elif isinstance(value, dict):
        yield from _mappings(value)
    elif isinstance(value, int) or (value is None and (int in kinds or "int" in str(kind))):
        # Sizes must divide each other, windows are short, limits long: try far and near values, with various divisors.
        yield from (2 * value, 1, value // 2, value + 1, 2, 4, 8, 3) if value else (1, 2, 4, 8, 3)
    elif isinstance(value, float) or (value is None and (float in kinds or "float" in str(kind))):
        yield from (value * 1000, value + 0.25, value / 2, 0.5) if value else (0.5, 0.25, 1.0)
    if value is not None and (type(None) in kinds or "None" in str(kind)):
        yield None


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Union


def _mappings(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the mapping with one number ten times as large or small, then RoPE that depends on the length."""
    for name, number in value.items():
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            yield value | {name: 10 * number}
            yield value | {name: number / 10 if isinstance(number, float) else max(number // 10, 1)}
    if "rope_theta" in value:
        yield {"rope_type": "dynamic", "rope_theta": value["rope_theta"], "factor": 2.0}


def values_of_equal_shapes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return other values for some fields of a configuration that do not determine the shape of a weight."""
    changes: dict[str, Any] = {
        name: 10 * value for name, value in config.items() if name.endswith(("_eps", "_epsilon"))
    }
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and isinstance(rope.get("rope_theta"), (int, float)):
        changes["rope_parameters"] = rope | {"rope_theta": 2 * rope["rope_theta"]}
    return changes
