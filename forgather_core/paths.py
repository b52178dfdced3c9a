"""Paths as people type them, and the names that Forgather makes of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DirectoryError


def expanded(path: str | os.PathLike[str]) -> Path:
    """With `~` expanded where there is such a home; left alone where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def resolved(target: Path) -> Path:
    """The place itself: a link is followed, so that the link stays and what it names is replaced.

    Raises:
        DirectoryError: The path is a loop of symbolic links.
    """
    try:
        return expanded(target).resolve()
    except (OSError, RuntimeError):  # Python below 3.13 raises RuntimeError for a loop
        raise DirectoryError(f"{target} is a loop of symbolic links: remove it or choose another path") from None


def short(name: str) -> str:
    """The part of a name that temporary names keep: they are longer, and 255 bytes are the limit."""
    return name[:200]


@contextmanager
def directory_errors(target: Path) -> Iterator[None]:
    """Raise what the operating system refuses as a DirectoryError that names `target`."""
    try:
        yield
    except OSError as error:
        place = error.filename or target
        raise DirectoryError(f"{target} cannot be written: {error.strerror or error} ({place})") from None
