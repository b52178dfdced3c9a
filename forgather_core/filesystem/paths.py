"""Paths as users type them, and the names that Forgather derives from them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DirectoryError, ForgatherError, access_hint


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` expanded, or unchanged if there is no such home directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def project_directory(path: str | os.PathLike[str], option: str) -> Path:
    """Return the path of an existing project directory.

    Args:
        path: The path.
        option: The option that sets it, for errors.

    Raises:
        ForgatherError: There is no such directory.
    """
    directory = expanded(path)
    if not directory.is_dir():
        problem = f"'{path}' is a file" if directory.exists() else f"the directory '{path}' does not exist"
        raise ForgatherError(problem, option=option, hint="choose another directory")
    return directory


def resolved(target: Path) -> Path:
    """Return the real path of a target: a link is followed, so that the link is kept and its target is replaced.

    Raises:
        DirectoryError: The path is a loop of symbolic links, or is relative to a removed working directory.
    """
    try:
        return expanded(target).resolve()
    except FileNotFoundError:  # from os.getcwd(): a path need not exist
        raise DirectoryError("the working directory has been removed", hint="change to another directory") from None
    except (OSError, RuntimeError):  # Python below 3.13 raises RuntimeError for a loop
        hint = "remove the links, or choose another path"
        raise DirectoryError("contains a loop of symbolic links", file=target, hint=hint) from None


def refuse_unsuitable_path(target: Path) -> None:
    """Check the path of a new model or tokenizer directory before any work.

    Raises:
        DirectoryError: The path is a loop of links, is not UTF-8, or is the working directory or a parent of it.
    """
    try:
        str(resolved(target)).encode()
    except UnicodeEncodeError:  # the tokenizers library opens only files with such a path
        raise DirectoryError("must have a UTF-8 path", file=resolved(target), hint="choose another path") from None
    refuse_working_directory(target)


def refuse_working_directory(target: Path) -> None:
    """Refuse to replace the working directory or a parent of it: the shell would be left in a removed directory.

    Raises:
        DirectoryError: `target` is such a directory.
    """
    directory = resolved(target)
    with suppress(FileNotFoundError):
        here = Path.cwd()
        if directory.is_dir() and any(directory.samefile(parent) for parent in (here, *here.parents)):
            kind = "the working directory" if directory.samefile(here) else "a parent of the working directory"
            hint = "change to another directory, or choose another path"
            raise DirectoryError(f"is {kind}, which cannot be replaced", file=directory, hint=hint)


def short(name: str) -> str:
    """Return a name truncated for use in temporary names, which are longer; file systems allow 255 bytes."""
    return name[:200]


@contextmanager
def directory_errors(target: Path) -> Iterator[None]:
    """Raise errors of the operating system as a DirectoryError that names `target`."""
    try:
        yield
    except OSError as error:
        name = f" ({error.filename})" if error.filename else ""
        problem = f"cannot be written: {error.strerror or error}{name}"
        raise DirectoryError(problem, file=target, hint=access_hint(error)) from None
