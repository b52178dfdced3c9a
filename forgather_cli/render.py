"""Draws reports with rich: on a terminal, plain in a pipe, or into a file of the kind its suffix names."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from forgather_core.errors import ForgatherError

SUFFIXES = (".txt", ".json", ".html", ".svg")
PIPE_WIDTH = 200  # nothing is folded or cut in a pipe: the next program reads whole lines
PAGE_WIDTH = 110


def console(*, stderr: bool = False) -> Console:
    """A console on standard output that folds nothing when piped."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def show(report: Mapping[str, Any], drawing: RenderableType, *, as_json: bool = False) -> None:
    """Print a report, drawn or as JSON."""
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False, default=str))
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
        text = json.dumps(report, indent=2, ensure_ascii=False, default=str) + "\n"
    else:
        with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
            page = Console(record=True, file=nowhere, width=PAGE_WIDTH, highlight=False, force_terminal=True)
            page.print(drawing)
            text = _export(page, path.suffix.lower(), title)
    try:
        path.write_text(text, encoding="utf-8")
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
) -> Table:
    """A table. No cell is ever cut: where it is too wide, columns after the first are folded.

    Args:
        title: Above the table.
        columns: Their headings.
        rows: Cells, one for each column.
        right: Numbers of the columns that are aligned to the right.
        dense: One space between columns on a terminal, not two.
    """
    watched = sys.stdout.isatty()
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if watched else box.ASCII2,
        show_edge=not watched,
        padding=(0, 0 if dense and watched else 1, 0, 0) if watched else (0, 1),
        header_style="dim",
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number in right else "left", overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(text_of(cell)) for cell in row))
    return table


def pairs(title: str, values: Mapping[str, Any]) -> Group:
    """Names and values below a title, those without a value left out."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        if value is not None:
            table.add_row(name, Text(text_of(value)))
    return Group(Text(title, "bold"), table, Text())


def link(url: str) -> Text:
    """An address: short on a terminal, which leads there by a click; else in full."""
    return Text(url.removeprefix("https://"), f"link {url}") if sys.stdout.isatty() else Text(url)


def text_of(value: Any) -> str:
    """A value as a person reads it: numbers with separators, null, true, {key: value}."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {text_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(text_of, value)) + "]"
    return str(value)


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
