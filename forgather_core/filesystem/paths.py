"""Paths as people type them, and the names that Forgather makes of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DirectoryError


def expanded(path: str | os.PathLike[str]) -> Path:
    """With `~` expanded where there is such a home; left alone where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def resolved(target: Path) -> Path:
    """The place itself: a link is followed, so that the link stays and what it names is replaced.

    Raises:
        DirectoryError: The path is a loop of symbolic links, or is relative to a working directory that is gone.
    """
    try:
        return expanded(target).resolve()
    except FileNotFoundError:  # from os.getcwd(): a path need not exist
        raise DirectoryError("the working directory has been removed: change to another one") from None
    except (OSError, RuntimeError):  # Python below 3.13 raises RuntimeError for a loop
        raise DirectoryError(f"{target} is a loop of symbolic links: remove it or choose another path") from None


def refuse_unsuitable_place(target: Path) -> None:
    """Refuse a place for a new model or tokenizer directory that cannot be used, before any work.

    Raises:
        DirectoryError: It is a loop of links, is not UTF-8, or would take the place of the working directory.
    """
    try:
        str(resolved(target)).encode()
    except UnicodeEncodeError:  # the tokenizers library opens only files with such a path
        raise DirectoryError(f"{resolved(target)} is not UTF-8, as the path of a model must be") from None
    refuse_working_directory(target)


def refuse_working_directory(target: Path) -> None:
    """Refuse to replace the working directory or one that contains it: the shell would be in a removed directory.

    Raises:
        DirectoryError: `target` is such a directory.
    """
    place = resolved(target)
    with suppress(FileNotFoundError):
        here = Path.cwd()
        if place.is_dir() and any(place.samefile(directory) for directory in (here, *here.parents)):
            what = "the working directory" if place.samefile(here) else "a parent of the working directory"
            raise DirectoryError(f"{place} is {what}, which cannot be replaced: run from elsewhere, or choose another")


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
