"""Locks of directories, each held by one process at a time and released when the process dies."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DirectoryError
from .disk import make_directory
from .paths import directory_errors, resolved, short
from .posix import CLOEXEC, NOFOLLOW, NONBLOCKING, lock_file, require_posix

_WAIT_NOTICE = 1.0  # seconds before a waiting process reports it


def lock_of(target: Path) -> Path:
    """Return the lock file of a resolved target: `.NAME.lock` beside it."""
    return target.parent / f".{short(target.name)}.lock"


@contextmanager
def directory_lock(
    target: Path, *, on_wait: Callable[[], None] | None = None, held: str | None = None
) -> Iterator[None]:
    """Lock `target` for this process. The death of the process releases the lock.

    Args:
        target: The directory, which may not exist.
        on_wait: Called once, after a second of waiting for another process.
        held: Error message if another process holds the lock; None waits for that process.

    Raises:
        ForgatherError: The operating system has no file locks (Windows).
        DirectoryError: The lock file beside `target` cannot be created, or is not a regular file; or another process
            holds the lock, and `held` is not None.
    """
    require_posix("writing model directories and checkpoints")
    path = lock_of(resolved(target))
    with directory_errors(target):
        make_directory(path.parent)
        descriptor = _acquire(path, on_wait, wait=held is None)
    if descriptor is None:
        raise DirectoryError(str(held), hint="wait for it to end, or choose another directory")
    try:
        yield
    finally:
        # Unlinked while locked: a waiting process notices and creates a new lock file. A lock file is always empty, so
        # a file with content is a user's file of the same name and is kept.
        with suppress(OSError):
            if os.fstat(descriptor).st_size == 0 and _is_same(path, descriptor):
                path.unlink()
        os.close(descriptor)


def _acquire(path: Path, on_wait: Callable[[], None] | None, *, wait: bool) -> int | None:
    """Return the descriptor of the locked file; None if another process holds the lock and `wait` is False."""
    notice: float | None = time.monotonic() + _WAIT_NOTICE
    while True:
        descriptor = _open(path)
        try:
            lock_file(descriptor)
            if _is_same(path, descriptor):
                return descriptor
        except BlockingIOError:
            if not wait:
                os.close(descriptor)
                return None
            if notice is not None and time.monotonic() > notice:
                notice = None
                if on_wait is not None:
                    on_wait()
            time.sleep(0.02)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open or create a lock file. Links are not followed: a dangling link would create its target."""
    flags = os.O_RDWR | os.O_CREAT | NOFOLLOW | NONBLOCKING | CLOEXEC
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):  # before opening, which affects some devices
            raise _not_regular(path)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _not_regular(path) from None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _not_regular(path)


def _not_regular(path: Path) -> DirectoryError:
    problem = "must be a regular file, because it is used as a lock"
    return DirectoryError(problem, file=path, hint="move or remove it")


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
