"""Output files that a user names: checked before the work starts."""

from __future__ import annotations

from pathlib import Path

from ..errors import ForgatherError


def check_output_file(path: Path, option: str) -> None:
    """Check that a file can be written.

    Args:
        path: The file.
        option: The option that names it, for errors.

    Raises:
        ForgatherError: The path is a directory, or its directory does not exist.
    """
    if path.is_dir():
        raise ForgatherError("is a directory", option=option, file=path, hint="add a file name")
    if not path.parent.is_dir():
        raise ForgatherError(f"the directory {path.parent} does not exist", option=option, hint="create it")
