"""Help pages in two columns. Names are never cut: a long name gets its own line."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from forgather_core.options.scope import help_of, is_required
from forgather_core.options.spec import OptionSpec

NAME_WIDTH = 30
MAX_WIDTH = 110
_INDENTED: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  ", "break_on_hyphens": False}


def page(usage: str, about: str, sections: Iterable[tuple[str, Sequence[tuple[str, str]]]], epilog: str = "") -> str:
    """Format a help page.

    Args:
        usage: The usage line.
        about: The description of the command.
        sections: Titles with rows of (names, explanation).
        epilog: A closing paragraph.
    """
    width = max(40, min(shutil.get_terminal_size((80, 24)).columns, MAX_WIDTH))
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
    is_styled = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return typer.style(text, bold=True) if is_styled else text


def arguments_of(parameters: list[Any]) -> list[tuple[str, str]]:
    """Return names and explanations of the positional arguments."""
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    return [(p.metavar or p.human_readable_name, p.help or "") for p in arguments]


def about(command: Any) -> str:
    """Return the description of a command on one line."""
    return " ".join((command.help or "").split())


def names_of(spec: OptionSpec) -> str:
    """Return the flags of an option and the placeholder of its value."""
    names = ", ".join(spec.flags)
    return names if spec.kind is bool else f"{names} {spec.metavar}"


def explanation(spec: OptionSpec, values: Mapping[str, Any], command: str | None = None) -> str:
    """Return the help of an option of a command with its default, from `values` (the preset) if the option is there."""
    if (text := help_of(spec, command)) is not None:
        return text
    default = "required" if is_required(spec) else shown_default(spec, values)
    return spec.info.help if default is None else f"{spec.info.help} [{default}]"


def shown_default(spec: OptionSpec, values: Mapping[str, Any]) -> str | None:
    """Return the default for a help page, from the preset if it sets the option; None if there is none to show."""
    value = values.get(spec.name, spec.default)
    if spec.kind is bool and not spec.info.negatable:
        return None
    if value is None:
        return "null" if spec.name in values else None
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {item}" for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
