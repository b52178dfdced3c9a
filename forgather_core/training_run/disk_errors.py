"""Failed writes of a checkpoint, of which torch and safetensors raise errors of their own."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError, DirectoryError, ForgatherError, access_hint, first_line
from .watch import last_checkpoint

_FULL = 2**16  # bytes; a disk with less free space is full
_TORCH_WRITERS = ("inline_container", "PytorchStreamWriter")  # in torch's errors of saving


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn write errors into a CheckpointError: torch and safetensors raise their own errors for a full disk."""
    try:
        yield
    except (OSError, RuntimeError, DirectoryError, CheckpointError) as error:
        if isinstance(error, CheckpointError) and error.file == str(target):
            raise
        reason = _failed_write(error, target)
        if reason is None:
            raise
        hint = error.hint if isinstance(error, ForgatherError) else None
        if isinstance(error, OSError):
            hint = access_hint(error)
        problem = f"{reason}{last_checkpoint(target.parent)}"
        raise CheckpointError(problem, file=target, hint=f"{hint or 'free disk space'}, then add --resume") from error


def _failed_write(error: Exception, target: Path) -> str | None:
    """Return the reason if an error is a failed write, else None. torch's errors do not name a full disk."""
    if isinstance(error, (DirectoryError, CheckpointError)):
        return error.problem
    if isinstance(error, OSError):
        return f"cannot be written: {error}"
    existing = next(path for path in target.parents if path.exists())
    if shutil.disk_usage(existing).free < _FULL:
        return f"cannot be written: {os.strerror(errno.ENOSPC)}"
    text = first_line(error)
    return f"cannot be written: {text}" if any(name in text for name in _TORCH_WRITERS) else None
