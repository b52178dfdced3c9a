"""Draws reports with rich: on a terminal, plain in a pipe, or into a file of the kind its suffix names."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.text import Text as RichText

from forgather_core.errors import ForgatherError
from forgather_core.filesystem.disk import replace_file
from forgather_core.filesystem.printable import printable, shortened, to_json

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
    """Escapes what no `Text` of this module has escaped, so that no drawing can forget to.

    Attributes:
        fixed: Whether its width is that of a terminal: tables drop columns rather than exceed it.
        needed: The width without which a table would split a number; its columns are not dropped.
    """

    fixed = False
    needed = 0

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None:
                yield Segment(printable(segment.text, keep="\n"), segment.style)
            else:
                yield segment


def console(*, stderr: bool = False) -> _Console:
    """A console on standard output that folds nothing when piped."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    made = _Console(file=stream, width=width, soft_wrap=False, **_NO_MARKUP)
    made.fixed = stream.isatty()
    return made


def show(report: Mapping[str, Any], drawing: RenderableType, *, as_json: bool = False) -> None:
    """Print a report, drawn or as JSON."""
    if as_json:
        print(to_json(report))
    else:
        on = console()
        on.print(drawing, crop=on.fixed)


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
            page = _page(drawing, nowhere, PAGE_WIDTH)
            if page.needed > PAGE_WIDTH:
                page = _page(drawing, nowhere, page.needed)
            text = _export(page, path.suffix.lower(), title)
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise ForgatherError(f"--output-file: {path} cannot be written: {error.strerror}") from None


def _page(drawing: RenderableType, file: Any, width: int) -> _Console:
    page = _Console(record=True, file=file, width=width, force_terminal=True, **_NO_MARKUP)
    page.print(drawing, crop=False)
    return page


def _export(page: Console, suffix: str, title: str) -> str:
    if suffix == ".html":
        return page.export_html()
    if suffix == ".svg":
        return page.export_svg(title=title)
    return page.export_text()


def notes(sentences: Sequence[str]) -> RenderableType:
    """What a user must know."""
    drawn = [Text(f"note: {shortened(sentence, LONGEST_CELL)}", "yellow") for sentence in sentences[:MOST_NOTES]]
    if len(sentences) > MOST_NOTES:
        drawn.append(Text(f"note: and {len(sentences) - MOST_NOTES:,} more; --json lists all", "yellow"))
    return Group(*drawn)


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
