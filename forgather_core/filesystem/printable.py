"""Make text of unknown origin safe to print: no control characters, and no more of it than a person reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LONGEST_LINE = 4000  # characters of an error or a note

# Printable by Unicode, but blank or without width.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def printable(text: str, keep: str = "") -> str:
    r"""Return `text` with every character escaped that does not show as itself.

    Control characters (C0, C1, DEL), line and paragraph separators, bidirectional and other format characters,
    surrogates and unassigned characters become `\x1b`, `\u202e` and so on.

    Args:
        text: Any text.
        keep: Characters that stay as they are, such as a newline.
    """
    if text.isprintable() and _INVISIBLE.isdisjoint(text):
        return text
    return "".join(c if c in keep or (c.isprintable() and c not in _INVISIBLE) else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def shortened(text: str, longest: int = LONGEST_LINE) -> str:
    """Return the first `longest` characters of `text`, and how many are left out."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text) - longest:,} more characters)"


def one_line(text: str) -> str:
    """Return a message as one printable line of at most `LONGEST_LINE` characters (more where they are escaped)."""
    return printable(" ".join(shortened(text, 8 * LONGEST_LINE).split()))[: LONGEST_LINE + 100]


def to_json(report: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """Return a report as strict JSON in ASCII.

    Numbers that JSON does not have become the texts "NaN", "Infinity" and "-Infinity".
    """
    import json  # not for a help page

    return json.dumps(_finite(report), indent=indent, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {(_finite(key) if isinstance(key, float) else key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
