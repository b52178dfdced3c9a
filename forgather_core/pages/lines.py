"""Charts of steps and of ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..filesystem.printable import printable
from .drawing import BAD, GOOD, INK, LINE, MUTED, SIZE, WIDTH, colour, drawing
from .html import Html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POINTS = 1000
_MOST_DOTS = 40  # different ratios of one row
_HEIGHT = 230.0
_ROW = 22.0


def curve(
    name: str,
    steps: Sequence[int],
    values: Sequence[float | None],
    number: int,
    level: float | None = None,
    points: Mapping[int, float] | None = None,
) -> Html:
    """Return a line chart of values by step. A value of None leaves a gap.

    Args:
        name: The title of the chart.
        steps: The number of each step.
        values: The value at each step.
        number: The number of the line's colour, from 1.
        level: A value to compare with, drawn as a dashed line.
        points: Other values by step, drawn as dots.
    """
    every = math.ceil(len(steps) / _MOST_POINTS)
    x, y = steps[::every], [math.nan if value is None else value for value in values[::every]]

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        axes.set_position((48 / WIDTH, 38 / _HEIGHT, 1 - 56 / WIDTH, 1 - 44 / _HEIGHT))
        axes.grid(axis="y")
        axes.plot(x, y, color=colour(number), linewidth=2, marker="o" if len(x) <= 40 else "", markersize=4)
        axes.margins(x=0.02, y=0.07)
        if points:
            axes.scatter(list(points), list(points.values()), s=30, color=colour(number + 1), linewidth=0, zorder=3)
        if level is not None:
            axes.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.locator_params(axis="y", nbins=6)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("step", fontsize=SIZE - 1)
        _bare(axes)
        axes.tick_params(length=0, pad=6)

    known = [value for value in values if value is not None]
    ends = (
        f"from {known[0]:.4g} to {known[-1]:.4g} at steps {steps[0]:,} to {steps[-1]:,}" if known else "no finite value"
    )
    return drawing(f"{name}: {ends}", _HEIGHT, draw)


@dataclass(frozen=True)
class Ratios:
    """A row of a chart of ratios.

    Args:
        values: Ratios of errors to their tolerances: 0 where there is no error, infinity where none is allowed.
        failed: Whether the row is drawn in the colour of failures.
    """

    values: Sequence[float]
    failed: bool


def ratios(name: str, rows: Mapping[str, Ratios]) -> Html:
    """Return a chart of errors as multiples of their tolerances, on a logarithmic axis with a line at 1."""
    known = [value for row in rows.values() for value in row.values if 0 < value < math.inf]
    low = math.floor(math.log10(min([*known, 0.01]))) if known else -3
    high = math.ceil(math.log10(max([*known, 10.0])))
    at_zero, at_infinity = 10.0 ** (low - 1), 10.0 ** (high + 1)
    height = len(rows) * _ROW + 58
    left = max(len(_cut(label)) for label in rows) * 0.6 * SIZE + 12

    def draw(axes: Axes) -> None:
        axes.set_position((left / WIDTH, 44 / height, 1 - (left + 14) / WIDTH, 1 - 48 / height))
        axes.set_xscale("log")
        axes.set_xlim(at_zero / 3, at_infinity * 3)
        axes.axvspan(1, at_infinity * 3, color=BAD, alpha=0.07, linewidth=0)
        axes.axvline(1, color=BAD, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.hlines(range(len(rows)), at_zero / 3, at_infinity * 3, color=LINE, linewidth=0.8, zorder=0)
        for number, row in enumerate(rows.values()):
            fill = BAD if row.failed else GOOD
            places = sorted({round(math.log10(min(max(v, at_zero), at_infinity)), 1) for v in row.values})[-_MOST_DOTS:]
            axes.scatter([10.0**p for p in places], [number] * len(places), s=20, color=fill, alpha=0.4, linewidth=0)
            if places:
                worst = min(max(*row.values, at_zero), at_infinity)
                axes.scatter([worst], [number], s=46, color=fill, linewidth=0, zorder=3)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [_cut(label) for label in rows])
        axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=SIZE, pad=8)
        axes.set_xticks(*_ticks(low, high, at_zero, at_infinity))
        axes.tick_params(axis="x", which="both", length=0, pad=6)
        axes.minorticks_off()
        axes.set_xlabel("error as a multiple of the tolerance", fontsize=SIZE - 1)
        _bare(axes)

    failed = [label for label, row in rows.items() if row.failed]
    return drawing(f"{name}: {len(rows)} checks; failed: {', '.join(failed) or 'none'}", height, draw)


def _ticks(low: int, high: int, at_zero: float, at_infinity: float) -> tuple[list[float], list[str]]:
    step = math.ceil((high - low + 1) / 5)
    powers = [power for power in range(low, high + 1) if power % step == 0]
    return [at_zero, *(10.0**power for power in powers), at_infinity], ["0", *map(_power, powers), "∞"]


def _power(power: int) -> str:
    if -3 <= power <= 3:
        return f"{10.0**power:g}"
    return "10" + "".join("⁻" if sign == "-" else "⁰¹²³⁴⁵⁶⁷⁸⁹"[int(sign)] for sign in str(power))


def _bare(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _cut(name: str) -> str:
    return printable(name[:26])
