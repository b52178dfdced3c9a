"""Output of reports: rich on a terminal, plain text in a pipe, or a file in the format of its suffix."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.text import Text as RichText

from forgather_core.errors import ForgatherError
from forgather_core.filesystem.output_file import check_output_file, write_output_file
from forgather_core.filesystem.printable import printable, shortened, to_json

SUFFIXES = (".txt", ".json", ".html", ".svg")
PIPE_WIDTH = 200  # output to a pipe is not folded or cut, so that programs can read whole lines
PAGE_WIDTH = 110

MAX_CELL_CHARACTERS = 500
MAX_ROWS = 1000
MAX_TABLE_CHARACTERS = 30_000
MAX_NOTES = 40

_NO_MARKUP: Any = {"markup": False, "emoji": False, "highlight": False}  # data is never interpreted as markup


class Text(RichText):
    """Text in which all control characters except newlines are escaped."""

    def __init__(self, text: str = "", style: str = "", **options: Any) -> None:
        super().__init__(printable(text, keep="\n"), style, **options)


class _Console(Console):
    """A console that escapes control characters, including those in text that is not a `Text` of this module.

    Attributes:
        fixed_width: Whether the width is that of a terminal, so that tables drop columns to fit.
        required_width: The minimum width at which no table splits a number or drops a column.
    """

    fixed_width = False
    required_width = 0

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None:
                yield Segment(printable(segment.text, keep="\n"), segment.style)
            else:
                yield segment


def console(*, stderr: bool = False) -> _Console:
    """Return a console on standard output (or standard error) that does not fold when piped."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    made = _Console(file=stream, width=width, soft_wrap=False, **_NO_MARKUP)
    made.fixed_width = stream.isatty()
    return made


def show(report: Mapping[str, Any], view: RenderableType, *, as_json: bool = False) -> None:
    """Print a report as its view or as JSON."""
    if as_json:
        print(to_json(report))
    else:
        target = console()
        target.print(view, crop=target.fixed_width)


def check_output(path: Path, *, as_json: bool = False) -> None:
    """Check that an output file can be written, before the work starts.

    Raises:
        ForgatherError: The suffix is unknown or does not fit `--json`, the path is a directory, or there is no such
            directory.
    """
    if path.suffix and path.suffix.lower() not in SUFFIXES:
        problem = f"the suffix of '{path.name}' must be one of {', '.join(SUFFIXES)}"
        raise ForgatherError(problem, option="--output-file")
    if as_json and path.suffix.lower() in {".html", ".svg"}:
        problem = f"has no effect on '{path.name}'"
        raise ForgatherError(problem, option="--json", hint="remove it, or write to a .json file")
    check_output_file(path, "--output-file")


def write(
    report: Mapping[str, Any], view: RenderableType, path: Path, title: str, *, kind: str, as_json: bool = False
) -> None:
    """Write a report to a file: text, JSON, HTML or SVG, depending on its suffix."""
    if as_json or path.suffix.lower() == ".json":
        text = to_json(report) + "\n"
    elif path.suffix.lower() == ".html":
        from forgather_core.pages import page

        text = page(kind, report)
    else:
        with Path("/dev/null").open("w", encoding="utf-8") as null_device:
            recorded = _recorded(view, null_device, PAGE_WIDTH)
            if recorded.required_width > PAGE_WIDTH:
                recorded = _recorded(view, null_device, recorded.required_width)
            is_image = path.suffix.lower() == ".svg"
            text = recorded.export_svg(title=title) if is_image else recorded.export_text()
    write_output_file(path, text.encode(), "--output-file")


def _recorded(view: RenderableType, file: Any, width: int) -> _Console:
    recorded = _Console(record=True, file=file, width=width, force_terminal=True, **_NO_MARKUP)
    recorded.print(view, crop=False)
    return recorded


def notes(sentences: Sequence[str]) -> RenderableType:
    """Return the view of notes, one per line."""
    drawn = [Text(f"note: {shortened(sentence, MAX_CELL_CHARACTERS)}", "yellow") for sentence in sentences[:MAX_NOTES]]
    if len(sentences) > MAX_NOTES:
        drawn.append(Text(f"note: and {len(sentences) - MAX_NOTES:,} more; --json lists all", "yellow"))
    return Group(*drawn)


def link(url: str) -> Text:
    """Return a URL, shortened and clickable on a terminal, in full otherwise."""
    return Text(url.removeprefix("https://"), f"link {url}") if sys.stdout.isatty() else Text(url)
