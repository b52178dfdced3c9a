"""Charts of pairs of factors: which combinations of their levels ran, and which failed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING

from .drawing import BAD, GOOD, INK, LINE, SIZE, WIDTH, drawing
from .html import Html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CHARACTER_WIDTH = 0.62 * SIZE  # average width
_GAP = 6.0  # pixels, between a label and its row or column
_INSIDE = 0.86  # side of a square, as a fraction of its cell


def pairs_matrix(
    name: str,
    levels: Mapping[str, Sequence[str]],
    cases: Sequence[Mapping[str, str]],
    causes: Collection[Mapping[str, str]],
) -> Html:
    """Return a chart with a square for each pair of factors: red if a combination of their levels fails.

    The fewer combinations of a pair are valid and ran, the paler its square. A square on the diagonal stands for a
    single factor.

    Args:
        name: The title of the chart.
        levels: The levels of each factor that varies.
        cases: The levels of each case that ran.
        causes: For each failure, the levels that cause it.
    """
    names = list(levels)
    failed = {pair for cause in causes for pair in _pairs(cause)}
    if not all(causes):  # an empty cause: the plain call fails, and so does every other
        failed |= {frozenset(pair) for pair in product(names, names)}
    ran = {(one, two): {(case[one], case[two]) for case in cases} for one, two in combinations(names, 2)}
    label = max(map(len, names)) * _CHARACTER_WIDTH + _GAP
    cell = (WIDTH - label) / len(names)
    height = label + cell * len(names)

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        axes.set_xlim(0, WIDTH)
        axes.set_ylim(height, 0)
        axes.axis("off")
        for row, one in enumerate(names):
            middle = label + (row + 0.5) * cell
            colour = BAD if any(one in pair for pair in failed) else INK
            axes.text(label - _GAP, middle, one, ha="right", va="center", color=colour)
            axes.text(middle, label - _GAP, one, rotation=90, ha="center", va="bottom", color=colour)
            for column in range(row + 1):
                two = names[column]
                pair = frozenset((one, two))
                share = 1.0
                if one != two:
                    share = len(ran[two, one]) / len(list(product(levels[one], levels[two])))
                left, top = label + column * cell, label + row * cell
                inset = cell * (1 - _INSIDE) / 2
                fill = BAD if pair in failed else GOOD if share else LINE
                alpha = 1.0 if pair in failed else 0.15 + 0.6 * share
                size = cell * _INSIDE
                axes.add_patch(Rectangle((left + inset, top + inset), size, size, color=fill, alpha=alpha, linewidth=0))

    wrong = "; ".join(sorted(" and ".join(sorted(pair)) for pair in failed)) if all(causes) else "the plain call"
    return drawing(f"{name}: {f'failed: {wrong}' if wrong else 'all agree'}", height, draw)


def _pairs(cause: Mapping[str, str]) -> list[frozenset[str]]:
    """Return the pairs of factors in a cause; a single factor is paired with itself."""
    if len(cause) < 2:
        return [frozenset(cause)]
    return [frozenset(pair) for pair in combinations(cause, 2)]
