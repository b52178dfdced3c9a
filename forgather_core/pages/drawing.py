"""Charts of matplotlib as inline SVG with the colours of the page, for light and dark mode."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..filesystem.printable import printable, shortened
from .html import Html, brief, escaped, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 460  # CSS pixels: readable on a phone, and two charts fit side by side on a larger screen
SIZE = 11.5  # pixels, of text
_UNITS = 72  # SVG units per inch

# matplotlib does not support CSS variables: it draws in these placeholder colours, which are replaced in its output.
_VARIABLES = {
    **{f"#fa000{number}": f"c{number}" for number in range(1, 9)},
    "#fb0001": "ink",
    "#fb0002": "muted",
    "#fb0003": "line",
    "#fb0004": "surface",
    "#fb0005": "yes",
    "#fb0006": "no",
}
_COLOURS = {name: colour for colour, name in _VARIABLES.items()}
INK, MUTED, LINE, SURFACE = (_COLOURS[name] for name in ("ink", "muted", "line", "surface"))
GOOD, BAD = _COLOURS["yes"], _COLOURS["no"]
SERIES = 8  # number of different colours

_STYLE = re.compile(r'(?<= )style="[^"]*"')
_COLOUR = re.compile("|".join(_VARIABLES))
_UNUSED = (
    re.compile(r"<\?xml.*?(?=<svg)", re.DOTALL),
    re.compile(r"<metadata>.*?</metadata>", re.DOTALL),
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r'(?<=<g) id="[^"]*"'),  # repeated in every chart of a page
    re.compile(r' xmlns(?::\w+)?="[^"]*"'),
)
_SVG_TAG = re.compile(r'<svg\b[^>]*?viewBox="([^"]*)"[^>]*>')
_SPACE = re.compile(r">\s+<")


def colour(number: int) -> str:
    """Return the colour of a series, numbered from 1; after `SERIES` colours they repeat."""
    return _COLOURS[f"c{(number - 1) % SERIES + 1}"]


def drawing(name: str, height: float, draw: Callable[[Axes], None]) -> Html:
    """Return a chart as an `svg` element.

    Args:
        name: A description of the chart, for screen readers.
        height: In pixels; the width is `WIDTH`.
        draw: A function that draws on axes that fill the chart.
    """
    name = printable(shortened(name))
    with _matplotlib(name):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH / _UNITS, height / _UNITS), dpi=_UNITS)
        figure.patch.set_visible(False)
        draw(figure.add_axes((0.0, 0.0, 1.0, 1.0)))
        written = io.StringIO()
        no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_svg(written, metadata=no_metadata)  # type: ignore[no-untyped-call]
    return _inline(written.getvalue(), name)


@contextmanager
def _matplotlib(name: str) -> Iterator[None]:
    logger = logging.getLogger("matplotlib")  # logs messages about its font cache to stderr
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import matplotlib

        settings: Any = {
            "svg.fonttype": "none",
            "svg.hashsalt": name,
            "text.parse_math": False,
            "font.family": "DejaVu Sans",  # part of matplotlib; pages replace it by the reader's own
            "font.size": SIZE,
            "text.color": INK,
            "axes.labelcolor": MUTED,
            "axes.edgecolor": LINE,
            "axes.facecolor": "none",
            "xtick.color": LINE,
            "ytick.color": LINE,
            "xtick.labelcolor": MUTED,
            "ytick.labelcolor": MUTED,
            "xtick.labelsize": SIZE - 1,
            "ytick.labelsize": SIZE - 1,
            "grid.color": LINE,
            "grid.linewidth": 0.8,
            "axes.axisbelow": True,
        }
        with matplotlib.rc_context(), warnings.catch_warnings():
            matplotlib.rcdefaults()  # the reader's own settings could need TeX
            matplotlib.rcParams.update(settings)
            warnings.simplefilter("ignore")  # its font lacks some characters that the reader's fonts have
            yield
    finally:
        logger.setLevel(level)


def _inline(svg: str, name: str) -> Html:
    for pattern in _UNUSED:
        svg = pattern.sub("", svg)
    svg = _STYLE.sub(_with_variables, svg)
    start = '<svg viewBox="{}" role="img" aria-label="{}"><title>{}</title>'
    text = escaped(name)
    svg = _SVG_TAG.sub(lambda found: start.format(found[1], text, text), svg, count=1)
    return Html(_SPACE.sub("><", svg).strip())


def _with_variables(style: re.Match[str]) -> str:
    return _COLOUR.sub(lambda found: f"var(--fg-{_VARIABLES[found[0]]})", style[0])


def chart(title: str, svg: Html, *below: object, lead: object = None) -> Html:
    """Return a card with a chart."""
    head = [tag("h2", brief(title)), *([tag("p", brief(lead), class_="fg-lead")] if lead else [])]
    return tag("figure", tag("figcaption", *head), svg, *below, class_="fg-card")
