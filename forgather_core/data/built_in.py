"""Built-in dataset projects, available on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from .standard_library import standard_library_docstrings, standard_library_texts


class BuiltIn(NamedTuple):
    """A configuration of a built-in project."""

    summary: str
    texts: Callable[[], Iterator[str]]


BUILT_IN: dict[str, dict[str, BuiltIn]] = {
    "stdlib": {
        "default": BuiltIn("Source files of this Python's standard library", standard_library_texts),
        "docstrings": BuiltIn("Docstrings in these files: prose", standard_library_docstrings),
    }
}
