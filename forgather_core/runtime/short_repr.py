"""A one-line repr for large dataclasses."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import PurePath
from typing import Any

_LONGEST = 80  # characters of a value


class Brief:
    """Base class for dataclasses with `repr=False`. The repr omits defaults, and shows the length of collections."""

    def __repr__(self) -> str:
        """Return one line."""
        return f"{type(self).__name__}({', '.join(self._facts())})"

    def _facts(self) -> Iterator[str]:
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if item.repr and not _is_default(item, value):
                yield f"{item.name}={_short(value)}"


def _is_default(item: Field[Any], value: object) -> bool:
    return item.default is not MISSING and type(value) is type(item.default) and value == item.default


def _short(value: object) -> str:
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        return f"<{len(value)} {'item' if len(value) == 1 else 'items'}>"
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, str | bytes | PurePath):
        text = repr(str(value) if isinstance(value, PurePath) else value)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"
    return f"<{type(value).__name__}>"
