"""Make untrusted text safe to print: control characters escaped, long text shortened, reports as strict JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LONGEST_LINE = 4000  # characters of an error or a note
_LONGEST_NAME = 120  # characters
_LIST_LENGTH = 3  # names before a list is truncated

# Printable according to Unicode, but blank or without width.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


def printable(text: str, keep: str = "") -> str:
    r"""Return `text` with all unprintable and invisible characters escaped.

    Control characters (C0, C1, DEL), line and paragraph separators, bidirectional and other format characters,
    surrogates and unassigned characters become `\x1b`, `\u202e` and so on.

    Args:
        text: Any text.
        keep: Characters that are not escaped, such as a newline.
    """
    if text.isprintable() and _INVISIBLE.isdisjoint(text):
        return text
    return "".join(c if c in keep or (c.isprintable() and c not in _INVISIBLE) else _escaped(c) for c in text)


def printable_name(name: object) -> str:
    """Return a name of unknown origin for a message: `printable`, and truncated to 120 characters."""
    text = str(name)
    return printable(text[:_LONGEST_NAME]) + ("..." if len(text) > _LONGEST_NAME else "")


def truncated_list(names: Sequence[object]) -> str:
    """Return the first three names and the number of the others: `a, b, c and 5 more`."""
    more = f" and {len(names) - _LIST_LENGTH:,} more" if len(names) > _LIST_LENGTH else ""
    return ", ".join(map(printable_name, names[:_LIST_LENGTH])) + more


def tensors(count: int) -> str:
    """Return a count of tensors: `1 tensor`, `3 tensors`."""
    return "1 tensor" if count == 1 else f"{count} tensors"


def shape_of(shape: Iterable[int]) -> str:
    """Return a shape as text: `16 x 8`."""
    return printable_name(" x ".join(map(str, shape)) or "scalar")


def dtype_of(dtype: torch.dtype) -> str:
    """Return a dtype as text: `float32`."""
    return str(dtype).removeprefix("torch.")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def shortened(text: str, longest: int = LONGEST_LINE) -> str:
    """Return the first `longest` characters of `text`, and the number of omitted characters."""
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text) - longest:,} more characters)"


def one_line(text: str) -> str:
    """Return a message as one printable line of at most `LONGEST_LINE` characters (more if some are escaped)."""
    return printable(" ".join(shortened(text, 8 * LONGEST_LINE).split()))[: LONGEST_LINE + 100]


def plain_copy(value: Any) -> Any:
    """Return an independent copy as plain data: mappings are dicts, tuples are lists, paths are text."""
    if isinstance(value, Mapping):
        return {key: plain_copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_copy(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def to_json(report: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """Return a report as strict JSON in ASCII.

    Non-finite numbers become the strings "NaN", "Infinity" and "-Infinity".
    """
    import json  # imported here because help pages do not need it

    return json.dumps(_finite(report), indent=indent, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {(_finite(key) if isinstance(key, float) else key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
