"""Help pages in two columns. Names are never cut: a long name gets its own line."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import typer

NAME_WIDTH = 30
WIDEST = 110
_INDENTED: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  ", "break_on_hyphens": False}


def page(usage: str, about: str, sections: Iterable[tuple[str, Sequence[tuple[str, str]]]], epilog: str = "") -> str:
    """Format a help page.

    Args:
        usage: The usage line.
        about: The description of the command.
        sections: Titles with rows of (names, explanation).
        epilog: A closing paragraph.
    """
    width = max(40, min(shutil.get_terminal_size((80, 24)).columns, WIDEST))
    parts = [_bold("Usage: ") + usage]
    parts += [_paragraphs(about, width)] if about else []
    parts += [_section(title, rows, width) for title, rows in sections if rows]
    parts += [_paragraphs(epilog, width)] if epilog else []
    return "\n\n".join(parts)


def _section(title: str, rows: Sequence[tuple[str, str]], width: int) -> str:
    column = max((len(name) for name, _ in rows if len(name) <= NAME_WIDTH), default=12) + 2
    lines = [_bold(title + ":")]
    for name, text in rows:
        room = max(20, width - column - 2)
        wrapped = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
        if len(name) > NAME_WIDTH:
            lines.append("  " + _bold(name))
        else:
            lines.append("  " + _bold(name) + " " * (column - len(name)) + wrapped.pop(0))
        lines += [" " * (column + 2) + line for line in wrapped]
    return "\n".join(line.rstrip() for line in lines)


def _paragraphs(text: str, width: int) -> str:
    blocks = [" ".join(block.split()) for block in text.split("\n\n")]
    return "\n\n".join(textwrap.fill(b, width, **_INDENTED) for b in blocks)


def _bold(text: str) -> str:
    wanted = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return typer.style(text, bold=True) if wanted else text
