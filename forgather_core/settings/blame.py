"""Find the value that causes a contradiction between options: the value in the topmost layer that violates the rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..definitions import contracts
from ..definitions.contracts import Problem


def first_problem(options: Any) -> Problem | None:
    """Return the first violated rule between options, or None."""
    return next(iter(contracts.problems(options)), None)


def blamed(options: Any, problem: Problem, layers: Sequence[Mapping[str, Any]]) -> tuple[int, tuple[str, ...]] | None:
    """Find the options whose values cause a problem.

    Args:
        options: The resolved options.
        problem: The problem to explain.
        layers: The converted values of each layer by option name, from the defaults to the topmost layer.

    Returns:
        The index of the topmost layer that causes the problem and the options in it that cause it; None if no layer
        above the defaults does. If that layer sets the option that the problem names, only that option is returned.
    """
    name = problem[0]
    for number in range(len(layers) - 1, 0, -1):
        own = [key for key in layers[number] if hasattr(options, key) and _is_effective(layers, key, number)]
        if name in own:
            return number, (name,)
        for keys in _candidates(own):
            if any(not _persists(options, below, name) for below in _lower_values(layers[:number], keys)):
                return number, keys
    return None


def _candidates(keys: Sequence[str]) -> Iterator[tuple[str, ...]]:
    yield from ((key,) for key in keys)
    if len(keys) > 1:
        yield tuple(keys)


def _is_effective(layers: Sequence[Mapping[str, Any]], key: str, number: int) -> bool:
    """Return whether the value of a layer is the effective one."""
    return not any(key in layer for layer in layers[number + 1 :])


def _lower_values(layers: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the values of the options in the given layers, then without the topmost layer, and so on."""
    for number in range(len(layers), 0, -1):
        yield {key: next(layer[key] for layer in reversed(layers[:number]) if key in layer) for key in keys}


def _persists(options: Any, values: Mapping[str, Any], name: str) -> bool:
    """Return whether the option also has a problem with these values."""
    fields = {field.name for field in dataclasses.fields(options)}
    try:
        other = dataclasses.replace(options, **{key: value for key, value in values.items() if key in fields})
        return any(found == name for found, _ in contracts.problems(other))
    except Exception:  # an invalid combination of values
        return True
