"""Draws reports with rich: on a terminal, plain in a pipe, or into a file of the kind its suffix names."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text as RichText

from forgather_core.disk import replace_file
from forgather_core.errors import ForgatherError
from forgather_core.printable import printable, shortened, to_json

SUFFIXES = (".txt", ".json", ".html", ".svg")
PIPE_WIDTH = 200  # nothing is folded or cut in a pipe: the next program reads whole lines
PAGE_WIDTH = 110

LONGEST_CELL = 500  # characters
MOST_ROWS = 1000
MOST_TEXT = 30_000  # characters of one table
MOST_NOTES = 40

_NO_MARKUP: Any = {"markup": False, "emoji": False, "highlight": False}  # data is never interpreted


class Text(RichText):
    """Text in which only newlines and spaces control the terminal: whatever else would is escaped."""

    def __init__(self, text: str = "", style: str = "", **options: Any) -> None:
        super().__init__(printable(text, keep="\n"), style, **options)


class _Console(Console):
    """Escapes what no `Text` of this module has escaped, so that no drawing can forget to."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None:
                yield Segment(printable(segment.text, keep="\n"), segment.style)
            else:
                yield segment


def console(*, stderr: bool = False) -> Console:
    """A console on standard output that folds nothing when piped."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return _Console(file=stream, width=width, soft_wrap=False, **_NO_MARKUP)


def show(report: Mapping[str, Any], drawing: RenderableType, *, as_json: bool = False) -> None:
    """Print a report, drawn or as JSON."""
    if as_json:
        print(to_json(report))
    else:
        console().print(drawing)


def check_output(path: Path) -> None:
    """Refuse a file that could not be written, before any work.

    Raises:
        ForgatherError: Its suffix is unknown, or it has no directory.
    """
    if path.suffix and path.suffix.lower() not in SUFFIXES:
        raise ForgatherError(f"--output-file: '{path.name}' ends in none of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise ForgatherError(f"--output-file: {path} is a directory; name a file")
    if not path.parent.is_dir():
        raise ForgatherError(f"--output-file: the directory {path.parent} does not exist")


def write(report: Mapping[str, Any], drawing: RenderableType, path: Path, title: str, *, as_json: bool = False) -> None:
    """Write a report into a file: text, JSON, HTML or SVG by its suffix."""
    if as_json or path.suffix.lower() == ".json":
        text = to_json(report) + "\n"
    else:
        with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
            page = _Console(record=True, file=nowhere, width=PAGE_WIDTH, force_terminal=True, **_NO_MARKUP)
            page.print(drawing)
            text = _export(page, path.suffix.lower(), title)
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise ForgatherError(f"--output-file: {path} cannot be written: {error.strerror}") from None


def _export(page: Console, suffix: str, title: str) -> str:
    if suffix == ".html":
        return page.export_html()
    if suffix == ".svg":
        return page.export_svg(title=title)
    return page.export_text()


def grid(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    right: Sequence[int] = (),
    dense: bool = False,
    most: int = MOST_ROWS,
) -> Table:
    """A table. Where a cell is too wide, columns after the first are folded. What is too much to read is cut.

    Args:
        title: Above the table.
        columns: Their headings.
        rows: Cells, one for each column.
        right: Numbers of the columns that are aligned to the right.
        dense: One space between columns on a terminal, not two.
        most: Rows that are drawn; a last one counts the others.
    """
    watched = sys.stdout.isatty()
    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if watched else box.ASCII2,
        show_edge=not watched,
        padding=(0, 0 if dense and watched else 1, 0, 0) if watched else (0, 1),
        header_style="dim",
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number in right else "left", overflow="fold", no_wrap=number == 0)
    cells = [[_cell(cell) for cell in row] for row in rows[:most]]
    drawn = _fitting(cells)
    for row_of in cells[:drawn]:
        table.add_row(*row_of)
    if drawn < len(rows):
        table.add_row(Text(f"and {len(rows) - drawn:,} more; --json lists all", "dim"))
    return table


def _cell(value: Any) -> RichText:
    return value if isinstance(value, RichText) else Text(shortened(text_of(value), LONGEST_CELL))


def _fitting(rows: Sequence[Sequence[RichText]]) -> int:
    """How many rows of a table have no more text than a person reads, each column as wide as its widest cell."""
    widths: list[int] = []
    for count, row in enumerate(rows):
        lengths = [len(cell.plain) for cell in row]
        widths = [max(pair) for pair in zip_longest(widths, lengths, fillvalue=0)]
        if count and (count + 1) * sum(widths) > MOST_TEXT:
            return count
    return len(rows)


def notes(sentences: Sequence[str]) -> RenderableType:
    """What a user must know."""
    drawn = [Text(f"note: {shortened(sentence, LONGEST_CELL)}", "yellow") for sentence in sentences[:MOST_NOTES]]
    if len(sentences) > MOST_NOTES:
        drawn.append(Text(f"note: and {len(sentences) - MOST_NOTES:,} more; --json lists all", "yellow"))
    return Group(*drawn)


def pairs(title: str, values: Mapping[str, Any]) -> Group:
    """Names and values below a title, those without a value left out."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    known = [(name, value) for name, value in values.items() if value is not None]
    for name, value in known[:MOST_NOTES]:
        table.add_row(Text(shortened(name, 100)), Text(shortened(text_of(value), LONGEST_CELL)))
    if len(known) > MOST_NOTES:
        table.add_row(Text(f"and {len(known) - MOST_NOTES:,} more; --json lists all", "dim"))
    return Group(Text(title, "bold"), table, Text())


def link(url: str) -> Text:
    """An address: short on a terminal, which leads there by a click; else in full."""
    return Text(url.removeprefix("https://"), f"link {url}") if sys.stdout.isatty() else Text(url)


def text_of(value: Any) -> str:
    """A value as a person reads it: numbers with separators, null, true, {key: value}. Long ones are cut."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + _joined((f"{key}: {text_of(item)}" for key, item in value.items()), len(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + _joined(map(text_of, value), len(value)) + "]"
    return str(value)


def _joined(items: Iterator[str], count: int) -> str:
    first = list(islice(items, LONGEST_CELL))
    return ", ".join(first) + (f", and {count - len(first):,} more" if count > len(first) else "")


def bytes_of(count: int) -> str:
    """`17.0 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def count_of(value: float | None) -> str:
    """`9.9 M`."""
    if value is None:
        return "-"
    for unit in ("", " k", " M", " G", " T"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:,.0f} P"
