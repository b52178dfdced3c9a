"""Locks that a save holds on a directory, and disk errors as CheckpointErrors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ...errors import CheckpointError, DirectoryError
from ...filesystem.atomic import directory_lock, sweep_stale
from ...filesystem.paths import directory_errors
from .commit import recover

STAGING = "checkpoint"  # base name of the lock and of the staging directory within a directory
LOCK = f".{STAGING}.lock"


@contextmanager
def hold_saves(directory: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Block saves into a directory, if it exists, and recover from an interrupted one."""
    if not directory.is_dir():
        yield
        return
    with directory_lock(directory / STAGING, on_wait=on_wait):
        sweep_stale(directory / STAGING, recover=partial(recover, directory))
        yield


@contextmanager
def save_locks(directory: Path, *, replace: bool, on_wait: Callable[[], None] | None) -> Iterator[None]:
    """Lock the directory for a save. If it may be replaced, lock its path first, always in this order."""
    if not replace:
        with hold_saves(directory, on_wait):
            yield
        return
    with directory_lock(directory, on_wait=on_wait), hold_saves(directory, on_wait):
        sweep_stale(directory)
        yield


@contextmanager
def saving_errors(directory: Path) -> Iterator[None]:
    """Raise disk errors as a CheckpointError that names the directory."""
    try:
        with directory_errors(directory):
            yield
    except DirectoryError as error:
        # STAGING is only a base name for the lock and the staging directory; no file has it.
        file = directory if Path(error.file or "").name == STAGING else error.file
        raise CheckpointError(error.problem, file=file, hint=error.hint) from None
