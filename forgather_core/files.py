"""Files and directories that are there whole or not at all. A kill at any instant leaves the old state or the new one.

A directory is written as a sibling `.NAME.tmp-PID-RANDOM`, made durable, and takes its place by one rename. Temporaries
of dead processes are swept by the next writer: the living hold a lock on theirs.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .disk import make_directory, sync_directory, sync_tree
from .errors import DirectoryError
from .paths import expanded

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_WAIT_NOTICE = 1.0  # seconds before a waiting process says so


Settle = Callable[[Path], None]


@contextmanager
def staging_directory(target: Path, *, settle: Settle | None = None) -> Iterator[Path]:
    """A new, empty sibling of `target`, removed at the end unless it has been renamed away.

    Args:
        target: What is being written.
        settle: Called with the staging directory before it is removed, also by the next process if this one dies; if it
            fails, the directory stays for the next one.

    Raises:
        DirectoryError: It cannot be made, or the disk fails within the block.
    """
    target = _resolved(target)
    with _os_errors(target):
        make_directory(target.parent)
        staging = target.parent / f".{_short(target.name)}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
        staging.mkdir()
        descriptor = os.open(staging, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # tells a sweeping process that we live
            yield staging
        finally:
            os.close(descriptor)
            _discard(staging, settle)


@contextmanager
def new_directory(target: Path, refuse: Callable[[], None]) -> Iterator[Path]:
    """A staging directory that takes the place of `target`, whole, when the block ends well.

    Args:
        target: Its place; its parents are made.
        refuse: Raises where something is in the way; called while nobody else can write there.

    Raises:
        DirectoryError: The operating system refuses.
    """
    make_directory(target.parent)
    with directory_lock(target):
        sweep_stale(target)  # first: it may bring back what a dead process was replacing
        refuse()
        with staging_directory(target) as staging:
            yield staging
            replace_directory(staging, target)


def _discard(staging: Path, settle: Settle | None) -> None:
    try:
        if settle is not None and staging.is_dir():
            settle(staging)
    except OSError:
        return  # the disk fails: whoever writes here next tries again
    shutil.rmtree(staging, ignore_errors=True)


def replace_directory(staging: Path, target: Path, *, known: Collection[str] | None = None) -> None:
    """Put `staging` in the place of `target`, which may exist, durably.

    On return the new directory is on disk under its name. What stood there is removed afterwards.

    Args:
        staging: The new directory.
        target: Its place.
        known: The entries of `target` when its files were carried over. What other processes have written there since
            is brought along; without this, nothing is.

    Raises:
        DirectoryError: The operating system refuses; `target` is as it was.
    """
    target = _resolved(target)
    with _os_errors(target):
        sync_tree(staging)
        if target.exists():
            _take_after(target, staging)
        else:
            staging.rename(target)
            sync_directory(target.parent)
            return
        if not _exchange(staging, target):
            # No such call here: between these two renames only the old one exists, and sweep_stale() puts it back.
            old = _old(target)
            target.rename(old)
            staging.rename(target)
            staging = old
        if known is not None:
            _rescue(staging, target, known)
        sync_directory(target.parent)
        shutil.rmtree(staging, ignore_errors=True)


def _take_after(old: Path, new: Path) -> None:
    """Give a directory the permissions of the one that it replaces, and its owner as far as the system lets us."""
    found = old.stat()
    with suppress(OSError):
        os.chown(new, found.st_uid, found.st_gid)
    new.chmod(stat.S_IMODE(found.st_mode))


def _rescue(old: Path, new: Path, known: Collection[str]) -> None:
    """Move what others have written into `old` while it was being replaced."""
    for entry in old.iterdir():
        there = new / entry.name
        if entry.name not in known and not os.path.lexists(there):
            entry.rename(there)
        elif entry.is_dir() and not entry.is_symlink() and there.is_dir():
            _rescue(entry, there, ())


def _old(target: Path) -> Path:
    return target.parent / f".{_short(target.name)}.old"


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one step; False where the system has no such call."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def carry_over(old: Path, staging: Path, names: Iterable[str]) -> None:
    """Bring entries of `old` into `staging`: files by hard link where that works, links as links, directories whole."""
    for name in names:
        source, destination = old / name, staging / name
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, destination, symlinks=True, copy_function=_link_or_copy)
        else:
            _link_or_copy(source, destination)


def _link_or_copy(source: str | Path, destination: str | Path, *, follow_symlinks: bool = False) -> str:
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, destination, follow_symlinks=False)
    return str(destination)


def sweep_stale(target: Path, *, settle: Settle | None = None) -> None:
    """Mend what dead processes left beside `target`. What a living one holds stays. Call it under the lock.

    Args:
        target: What they were writing.
        settle: As of `staging_directory`.
    """
    target = _resolved(target)
    old = _old(target)
    if old.is_dir() and not target.exists():
        old.rename(target)
    elif old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    if not target.parent.is_dir():
        return
    pattern = _temporaries(target)
    for entry in target.parent.iterdir():
        if pattern.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink() and _is_abandoned(entry):
            _discard(entry, settle)


def is_touched(target: Path) -> bool:
    """Whether something of ours lies beside `target`: a process is at work there, or one has died."""
    target = _resolved(target)
    pattern, lock = _temporaries(target), _lock_of(target)
    ours = (lock.name, _old(target).name)
    entries = target.parent.iterdir() if target.parent.is_dir() else ()
    return any(entry.name in ours or pattern.fullmatch(entry.name) for entry in entries)


def _temporaries(target: Path) -> re.Pattern[str]:
    return re.compile(rf"\.{re.escape(_short(target.name))}\.tmp-\d+-[0-9a-f]{{8}}")


def _lock_of(target: Path) -> Path:
    return target.parent / f".{_short(target.name)}.lock"


def _is_abandoned(directory: Path) -> bool:
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def directory_lock(target: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold `target` alone: one process after the other. Death releases the lock.

    Args:
        target: The directory, there or not.
        on_wait: Called once, after a second, while another process holds it.

    Raises:
        DirectoryError: The lock file beside `target` cannot be made.
    """
    target = _resolved(target)
    with _os_errors(target):
        make_directory(target.parent)
        descriptor = _locked(_lock_of(target), on_wait)
    try:
        yield
    finally:
        with suppress(OSError):  # unlinked while held: who waits for it sees that and takes a new one
            _lock_of(target).unlink()
        os.close(descriptor)


def _locked(path: Path, on_wait: Callable[[], None] | None) -> int:
    notice: float | None = time.monotonic() + _WAIT_NOTICE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
        except BlockingIOError:
            if notice is not None and time.monotonic() > notice:
                notice = None
                if on_wait is not None:
                    on_wait()
            time.sleep(0.02)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def replaced_by(path: Path) -> Path:
    """Where the content of `path` is: there, or under the name that it has between the two renames of an exchange."""
    return _old(_resolved(path)) if not os.path.lexists(path) and _old(_resolved(path)).is_dir() else path


def _resolved(target: Path) -> Path:
    """The place itself: a link is followed, so that the link stays and what it names is replaced."""
    return expanded(target).resolve()


def _short(name: str) -> str:
    return name[:200]  # a temporary's name is longer, and 255 bytes are the limit


@contextmanager
def _os_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or target
        raise DirectoryError(f"{target} cannot be written: {error.strerror or error} ({place})") from None
