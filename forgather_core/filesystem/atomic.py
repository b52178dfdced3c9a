"""Create and replace files and directories atomically. A kill at any instant leaves the old state or the new one.

A directory is written within a marked temporary directory beside its target (see `temporaries`), made durable, and
moved to its target by one rename. The next writer removes the temporary directories of dead processes; those of live
processes are locked.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .disk import make_directory, sync_directory, sync_tree
from .locks import directory_lock
from .paths import directory_errors, refuse_working_directory, resolved
from .temporaries import Recover, discard, is_touched, make_temporary, replaced_by, replaced_name, sweep_stale

__all__ = [
    "carry",
    "carry_over",
    "directory_lock",
    "is_touched",
    "new_directory",
    "replace_directory",
    "replaced_by",
    "staging_directory",
    "sweep_stale",
]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def staging_directory(target: Path, *, recover: Recover | None = None) -> Iterator[Path]:
    """Yield a new, empty directory with the name of `target`, on the same file system; remove it at the end.

    Args:
        target: Final path of the file or directory to write.
        recover: Called with the staging directory before it is removed, by the next process if this one dies. If it
            fails, the directory is kept for the next process.

    Raises:
        DirectoryError: The directory cannot be created, or the disk fails within the block.
    """
    target = resolved(target)
    with directory_errors(target):
        make_directory(target.parent)
        temporary, descriptor = make_temporary(target)
        try:
            staging = temporary / target.name
            staging.mkdir()
            yield staging
        finally:
            os.close(descriptor)
            discard(temporary, target, recover)


@contextmanager
def new_directory(target: Path, refuse: Callable[[], None]) -> Iterator[Path]:
    """Yield a staging directory that replaces `target` when the block ends without an exception.

    Args:
        target: Final path; missing parents are created.
        refuse: Called while the lock of `target` is held; raises if `target` must not be replaced.

    Raises:
        DirectoryError: `target` cannot be written, or is the working directory or a parent of it.
    """
    refuse_working_directory(target)
    with directory_lock(target):
        sweep_stale(target)  # before refuse(): this may restore a directory that a dead process was replacing
        refuse()
        with staging_directory(target) as staging:
            yield staging
            replace_directory(staging, target, known=())


def replace_directory(staging: Path, target: Path, *, known: Collection[str] | None = None) -> None:
    """Move `staging` to `target`, which may exist, durably.

    On return the new directory is on disk under its name. The replaced directory is removed afterwards.

    Args:
        staging: The new directory, from `staging_directory(target)`.
        target: Its final path.
        known: The entries of `target` when its files were carried over, `DIRECTORY/NAME` within subdirectories.
            Entries that other processes have added since are moved into the new directory. None moves no entries.

    Raises:
        DirectoryError: `target` cannot be replaced; it is unchanged.
    """
    target = resolved(target)
    with directory_errors(target):
        sync_tree(staging)
        if not target.exists():
            staging.rename(target)
            sync_directory(target.parent)
            return
        _copy_permissions(target, staging)
        if not _exchange(staging, target):
            # Without the exchange call, only the old directory exists between the renames; discard() restores it.
            old = staging.parent / replaced_name(target)
            target.rename(old)
            staging.rename(target)
            staging = old
        if known is not None:
            _move_new_entries(staging, target, known)
        sync_directory(target.parent)
        shutil.rmtree(staging, ignore_errors=True)


def _copy_permissions(old: Path, new: Path) -> None:
    """Copy the permissions of `old` to `new`, and its owner if the system allows it."""
    found = old.stat()
    with suppress(OSError):
        os.chown(new, found.st_uid, found.st_gid)
    new.chmod(stat.S_IMODE(found.st_mode))


def _move_new_entries(old: Path, new: Path, known: Collection[str]) -> None:
    """Move entries that other processes added to `old` during the replacement, and pipes that could not be linked."""
    for entry in old.iterdir():
        moved = new / entry.name
        if (entry.name not in known or _is_special(entry)) and not os.path.lexists(moved):
            entry.rename(moved)
        elif entry.is_dir() and not entry.is_symlink() and moved.is_dir():
            inside = f"{entry.name}/"
            _move_new_entries(entry, moved, {name.removeprefix(inside) for name in known if name.startswith(inside)})


def _is_special(path: Path) -> bool:
    """Return whether a path is a pipe, a socket or a device."""
    mode = path.lstat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one step; return False if the system has no such call."""
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
    """Copy entries of `old` into `staging` under the same names; see `carry`."""
    for name in names:
        carry(old / name, staging / name)


def carry(source: Path, destination: Path) -> None:
    """Copy a file or directory without opening it: files become hard links if possible, links stay links.

    A pipe, socket or device that cannot be linked is skipped; `replace_directory` moves it.
    """
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, destination, symlinks=True, copy_function=_link_or_copy)
    else:
        _link_or_copy(source, destination)


def _link_or_copy(source: str | Path, destination: str | Path, *, follow_symlinks: bool = False) -> str:
    try:
        os.link(source, destination, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        if not _is_special(Path(source)):
            shutil.copy2(source, destination, follow_symlinks=False)
    return str(destination)
