"""The levels that a model refuses with an error: nothing is silently wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from ...definitions.check import Measured
from ...filesystem.printable import shortened
from .factors import Case
from .rules import Rule, violated

RAISED = "raised"
_MOST = 100  # characters of the error
# Features that not every model has. The checks of single features report errors in the others.
_OPTIONAL = ("dropout", "length", "mask", "cache", "input", "outputs", "labels")


def refused_levels(
    run: Callable[[Case], list[Measured]],
    levels: Mapping[str, Collection[str]],
    base: Case,
    rules: Collection[Rule],
) -> Iterator[tuple[str, str, str]]:
    """Yield the factor, the level and the reason for each level that raises an error while all others are plain.

    Args:
        run: Returns the deviations of a case.
        levels: The levels of each factor.
        base: The plain case.
        rules: The conditions that every case satisfies.
    """
    for name in _OPTIONAL:
        for level in levels[name]:
            case = {**base, name: level}
            if level == base[name] or violated(case, rules) is not None:
                continue
            what = run(case)[0].what
            if what.startswith(RAISED):
                yield name, level, f"the model refuses it: {shortened(what.removeprefix(RAISED).strip(), _MOST)}"
