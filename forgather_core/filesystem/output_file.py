"""Output files that a user names: checked before the work starts."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ForgatherError, access_hint
from .disk import replace_file

_REPORTS = {".html", ".svg", ".xml"}  # no file of a model has one of these suffixes


def check_output_file(path: Path, option: str) -> None:
    """Check that a file can be written, and is not a file of a model.

    Args:
        path: The file.
        option: The option that names it, for errors.

    Raises:
        ForgatherError: The path is a directory, its directory does not exist, there is no permission, or it is an
            existing file of a model directory.
    """
    parent = path.parent
    if path.is_dir():
        raise ForgatherError("is a directory", option=option, file=path, hint="add a file name")
    if parent.exists() and not parent.is_dir():
        raise ForgatherError(f"{parent} is a file", option=option, hint="name a file in a directory")
    if not parent.is_dir():
        raise ForgatherError(f"the directory {parent} does not exist", option=option, hint="create it")
    if path.is_file() and (parent / "config.json").exists() and path.suffix not in _REPORTS:
        hint = "choose a name that does not exist"
        raise ForgatherError("is a file of a model directory", option=option, file=path, hint=hint)
    if not os.access(path if path.exists() and not path.is_file() else parent.resolve(), os.W_OK):
        hint = access_hint(PermissionError())
        raise ForgatherError("cannot be written: Permission denied", option=option, file=path, hint=hint)


def write_output_file(path: Path, data: bytes, option: str) -> None:
    """Write a file atomically.

    Args:
        path: The file.
        data: Its content.
        option: The option that names it, for errors.

    Raises:
        ForgatherError: The file cannot be written.
    """
    try:
        replace_file(path, data)
    except OSError as error:
        problem, hint = f"cannot be written: {error.strerror}", access_hint(error)
        raise ForgatherError(problem, option=option, file=path, hint=hint) from None
