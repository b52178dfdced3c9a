"""Find the value to blame when options contradict each other: the last one given that breaks the rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Problem = tuple[str, str]  # an option, and a sentence


def first_problem(options: Any) -> Problem | None:
    """Return the first broken rule between options, or None."""
    return next(iter(getattr(options, "problems", tuple)()), None)


def blamed(options: Any, problem: Problem, layers: Sequence[Mapping[str, Any]]) -> tuple[int, tuple[str, ...]] | None:
    """Find the options without whose values the problem would not exist.

    Args:
        options: The resolved options.
        problem: What is wrong with them.
        layers: The values of each layer by option, converted, the lowest first and the defaults at the bottom.

    Returns:
        The number of the layer and the options in it; the option of the problem itself where it stands in a higher
        layer than any other. None if no layer above the defaults is to blame.
    """
    name = problem[0]
    for number in range(len(layers) - 1, 0, -1):
        own = [key for key in layers[number] if hasattr(options, key) and _rules(layers, key, number)]
        if name in own:
            return number, (name,)
        for keys in _suspects(own):
            if any(not _persists(options, below, name) for below in _others(layers[:number], keys)):
                return number, keys
    return None


def _suspects(keys: Sequence[str]) -> Iterator[tuple[str, ...]]:
    yield from ((key,) for key in keys)
    if len(keys) > 1:
        yield tuple(keys)


def _rules(layers: Sequence[Mapping[str, Any]], key: str, number: int) -> bool:
    """Whether the value of a layer is the one that counts."""
    return not any(key in layer for layer in layers[number + 1 :])


def _others(layers: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The values that the options would have without their layer, and without those below it one by one."""
    for number in range(len(layers), 0, -1):
        yield {key: next(layer[key] for layer in reversed(layers[:number]) if key in layer) for key in keys}


def _persists(options: Any, values: Mapping[str, Any], name: str) -> bool:
    """Whether the option has a problem with these values too."""
    fields = {field.name for field in dataclasses.fields(options)}
    try:
        other = dataclasses.replace(options, **{key: value for key, value in values.items() if key in fields})
        problems: Callable[[], Any] = getattr(other, "problems", tuple)
        return any(found == name for found, _ in problems())
    except Exception:  # values that do not go together at all
        return True
