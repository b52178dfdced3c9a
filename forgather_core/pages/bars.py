"""Charts of horizontal bars: one value each, stacked, or grouped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..filesystem.printable import printable
from .drawing import INK, LINE, MUTED, SIZE, SURFACE, WIDTH, colour, drawing
from .html import Html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BARS = 40
_ROW = 26.0  # pixels from bar to bar
_BAR = 15.0
_CHARACTER_WIDTH = 0.62 * SIZE  # average width
_NEAR = 0.8  # a bar longer than this fraction of the limit is near it
_LONGEST_NAME = 26  # characters


def bars(
    name: str, values: Mapping[str, float], texts: Sequence[str], colours: Sequence[str], limit: float | None = None
) -> Html:
    """Return a chart with one bar for each value, and its text at the end of the bar.

    Args:
        name: The title of the chart.
        values: The values by their labels, from top to bottom.
        texts: The values as text.
        colours: One colour for each bar, from `drawing`.
        limit: Value to compare the bars with, drawn as a dashed line.
    """
    drawn = dict(list(values.items())[:MOST_BARS])
    most = max([*drawn.values(), limit or 0.0])

    def draw(axes: Axes) -> None:
        _frame(axes, list(drawn), most, max(map(len, texts), default=0))
        if limit is not None:
            axes.axvline(limit, color=MUTED, linewidth=1, linestyle=(0, (3, 3)), zorder=0.5)
        for row, (value, text, fill) in enumerate(zip(drawn.values(), texts, colours, strict=False)):
            axes.barh(row, value, height=_BAR / _ROW, color=fill)
            is_near = limit is not None and _NEAR * limit < value < limit
            # Near the limit, the text is placed beyond the line, not on it.
            _value(axes, limit if limit is not None and is_near else value, row, text)

    stated = ", ".join(f"{label} {text}" for label, text in zip(drawn, texts, strict=False))
    return drawing(f"{name}: {stated}", _height(len(drawn)), draw)


def stacked(
    name: str, rows: Mapping[str, Mapping[str, float]], colours: Mapping[str, int], text: Callable[[float], str]
) -> Html:
    """Return a chart with one bar for each row, made of its parts, with the total at the end.

    Args:
        name: The title of the chart.
        rows: The parts by name, for each row by its label.
        colours: The number of the colour of each part.
        text: Formats a total.
    """
    totals = {label: sum(parts.values()) for label, parts in rows.items()}
    texts = [text(total) for total in totals.values()]

    def draw(axes: Axes) -> None:
        _frame(axes, list(rows), max(totals.values(), default=0.0), max(map(len, texts), default=0))
        for row, (label, parts) in enumerate(rows.items()):
            left = 0.0
            for part, size in parts.items():
                fill = colour(colours[part])
                axes.barh(row, size, left=left, height=0.62, color=fill, edgecolor=SURFACE, linewidth=1)
                left += size
            _value(axes, totals[label], row, texts[row])

    stated = ", ".join(f"{label} {total}" for label, total in zip(rows, texts, strict=True))
    return drawing(f"{name}: {stated}", _height(len(rows), 36.0), draw)


def grouped(
    name: str, labels: Sequence[str], series: Mapping[str, Sequence[float]], text: Callable[[float], str]
) -> Html:
    """Return a chart with a group of bars for each label, and in it one bar for each series."""
    count = len(series)
    step = 17.0 * count + 15.0
    texts = [[text(value) for value in values] for values in series.values()]
    most = max((value for values in series.values() for value in values), default=0.0)

    def draw(axes: Axes) -> None:
        _frame(axes, labels, most, max((len(one) for row in texts for one in row), default=0))
        for number, values in enumerate(series.values()):
            for row, value in enumerate(values):
                place = row + (number - (count - 1) / 2) * 17.0 / step
                axes.barh(place, value, height=14.0 / step, color=colour(number + 1))
                _value(axes, value, place, texts[number][row])

    stated = "; ".join(
        f"{one}: " + ", ".join(f"{label} {value}" for label, value in zip(labels, row, strict=True))
        for one, row in zip(series, texts, strict=True)
    )
    return drawing(f"{name}. {stated}", _height(len(labels), step), draw)


def _height(rows: int, step: float = _ROW) -> float:
    return max(rows, 1) * step + 4


def _frame(axes: Axes, labels: Sequence[str], most: float, longest: int) -> None:
    """Place the axes: labels to the left of them, and room for values of `longest` characters in them."""
    names = [_cut(label) for label in labels]
    left = max(map(len, names), default=0) * _CHARACTER_WIDTH + 10
    room = longest * _CHARACTER_WIDTH + 8
    axes.set_position((left / WIDTH, 0.0, 1 - left / WIDTH, 1.0))
    width = WIDTH - left
    axes.set_xlim(0, (most or 1.0) * width / max(width - room, 0.2 * width))
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), names)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=SIZE, pad=8)
    axes.xaxis.set_visible(False)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(LINE)


def _value(axes: Axes, value: float, row: float, text: str) -> None:
    axes.annotate(
        text,
        (value, row),
        (6, 0),
        textcoords="offset points",
        va="center_baseline",
        color=MUTED,
        annotation_clip=False,
    )


def _cut(name: str) -> str:
    name = printable(name[: _LONGEST_NAME + 1])
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
