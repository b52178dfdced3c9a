"""Code of directories that Forgather did not write runs on request only."""

from __future__ import annotations

from pathlib import Path

from ...errors import CheckError
from ...model.directory_errors import has_code
from ...model.manifest import read_manifest

FLAG = "--trust-remote-code"


def require_trust(directory: Path, *, trusted: bool, option: str | None = None) -> None:
    """Check that the code of a directory may run.

    A directory with a manifest counts as one that Forgather wrote, even if its code was edited: its owner edits it. A
    manifest can be forged.

    Args:
        directory: A model directory.
        trusted: Whether the user trusts its code.
        option: The option that names the directory, if any.

    Raises:
        CheckError: Forgather did not write it, it has code, and the user has not asked to run it.
    """
    if trusted or read_manifest(directory) is not None or not has_code(directory):
        return
    where = {"file": directory} if option is None else {"option": option}
    raise CheckError("has Python code of its own", hint=f"read the code, and add {FLAG} to run it", **where)
