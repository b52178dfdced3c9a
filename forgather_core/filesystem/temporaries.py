"""Marked temporary directories beside a target, and recovery from those of dead processes.

A temporary directory `.NAME.tmp-PID-RANDOM` contains a directory NAME, which is written and renamed away, and an empty
file whose name contains the inode of the temporary directory. Nothing is removed without this mark: user directories,
copies and unpacked archives never have it. The mark is created first and removed last, so that a kill at any instant
leaves a directory that is either marked or empty.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .locks import lock_of
from .paths import resolved, short
from .posix import CLOEXEC, DIRECTORY, lock_file, require_posix

Recover = Callable[[Path], None]

_REPLACED = ".replaced"  # suffix of a target that was moved into the temporary directory of its replacement
_log = logging.getLogger(__name__)


def make_temporary(target: Path) -> tuple[Path, int]:
    """Create a marked temporary directory beside a resolved target.

    Returns:
        The directory, and a descriptor that holds its lock while this process is alive.

    Raises:
        ForgatherError: The operating system has no file locks (Windows).
        OSError: The directory cannot be created.
    """
    require_posix("writing directories")
    temporary = target.parent / f".{short(target.name)}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir()
    descriptor = os.open(temporary, os.O_RDONLY | DIRECTORY | CLOEXEC)
    try:
        lock_file(descriptor, wait=True)
        os.close(os.open(mark_of(temporary), os.O_WRONLY | os.O_CREAT | os.O_EXCL | CLOEXEC, 0o666))
    except OSError:
        os.close(descriptor)
        with suppress(OSError):
            temporary.rmdir()
        raise
    return temporary, descriptor


def mark_of(temporary: Path) -> Path:
    """Return the mark of a temporary directory. Its name contains the inode, so that a copy is not marked."""
    return temporary / f".forgather-temporary-{temporary.stat().st_ino}"


def is_marked(temporary: Path) -> bool:
    """Return whether Forgather created this temporary directory."""
    return temporary.is_dir() and not temporary.is_symlink() and os.path.lexists(mark_of(temporary))


def replaced_name(target: Path) -> str:
    """Return the name of a replaced target in the temporary directory, on systems that cannot exchange directories."""
    return short(target.name) + _REPLACED


def discard(temporary: Path, target: Path, recover: Recover | None) -> None:
    """Recover from a temporary directory and remove it, if it is marked or empty.

    Args:
        temporary: The temporary directory. Nothing is removed from an unmarked one.
        target: The resolved target beside it.
        recover: Called first with the directory that was being written.
    """
    marked = is_marked(temporary)
    try:
        if marked and (old := temporary / replaced_name(target)).is_dir() and not os.path.lexists(target):
            old.rename(target)  # the process died between two renames
        written = temporary / target.name if marked else temporary  # releases without marks wrote directly into it
        if recover is not None and written.is_dir():
            recover(written)
    except OSError:
        return  # the disk failed: the next process that writes here tries again
    if marked:
        _remove(temporary)
    else:
        with suppress(OSError):
            temporary.rmdir()
        if temporary.is_dir():
            _log.warning("%s is kept, because it has no mark of Forgather: remove it if it is not needed", temporary)


def _remove(temporary: Path) -> None:
    mark = mark_of(temporary)
    for entry in temporary.iterdir():
        if entry == mark:
            continue
        if entry.is_dir() and not entry.is_symlink():
            with suppress(OSError):
                shutil.rmtree(entry)
        else:
            with suppress(OSError):
                entry.unlink()
    with suppress(OSError):
        if [entry.name for entry in temporary.iterdir()] == [mark.name]:
            mark.unlink()
            temporary.rmdir()


def sweep_stale(target: Path, *, recover: Recover | None = None) -> None:
    """Remove the temporary directories of dead processes beside `target`; those of live processes are locked.

    Requires the lock of `target`.

    Args:
        target: The path that the processes were writing.
        recover: Called with the directory that was being written before it is removed.
    """
    target = resolved(target)
    if not target.parent.is_dir():
        return
    _restore_unmarked(target)
    for temporary in _abandoned(target):
        discard(temporary, target, recover)


def _restore_unmarked(target: Path) -> None:
    """Restore a target moved away by a release without marks, if a temporary directory shows that the process died."""
    old = _old_path(target)
    if not os.path.lexists(target) and old.is_dir() and not old.is_symlink() and _died_replacing(target):
        old.rename(target)


def _died_replacing(target: Path) -> bool:
    return any(not is_marked(temporary) and any(temporary.iterdir()) for temporary in _abandoned(target))


def _abandoned(target: Path) -> list[Path]:
    pattern = _temporaries(target)
    entries = [entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)]
    return [entry for entry in entries if entry.is_dir() and not entry.is_symlink() and _is_abandoned(entry)]


def sweep_marked(directory: Path, targets: re.Pattern[str]) -> None:
    """Remove marked temporary directories of dead processes for every target in `directory` whose name matches."""
    pattern = re.compile(rf"\.({targets.pattern})\.tmp-\d+-[0-9a-f]{{8}}")
    for temporary in directory.iterdir():
        found = pattern.fullmatch(temporary.name)
        if found and is_marked(temporary) and _is_abandoned(temporary):
            discard(temporary, directory / found[1], None)


def is_touched(target: Path) -> bool:
    """Return whether a lock file or a temporary directory is beside `target`: a process is writing there, or died."""
    target = resolved(target)
    pattern, lock = _temporaries(target), lock_of(target)
    names = (lock.name, _old_path(target).name)
    entries = target.parent.iterdir() if target.parent.is_dir() else ()
    return any(entry.name in names or pattern.fullmatch(entry.name) for entry in entries)


def replaced_by(path: Path) -> Path:
    """Return the current path of the directory `path`, which differs between the two renames of a replacement."""
    if os.path.lexists(path):
        return path
    target = resolved(path)
    if not target.parent.is_dir():
        return path
    pattern = _temporaries(target)
    for temporary in target.parent.iterdir():
        if (
            pattern.fullmatch(temporary.name)
            and is_marked(temporary)
            and (old := temporary / replaced_name(target)).is_dir()
        ):
            return old
    return _old_path(target) if _old_path(target).is_dir() and _died_replacing(target) else path


def _old_path(target: Path) -> Path:
    """Return the path to which releases without marks moved a target that was being replaced."""
    return target.parent / f".{short(target.name)}.old"


def _temporaries(target: Path) -> re.Pattern[str]:
    return re.compile(rf"\.{re.escape(short(target.name))}\.tmp-\d+-[0-9a-f]{{8}}")


def _is_abandoned(directory: Path) -> bool:
    try:
        descriptor = os.open(directory, os.O_RDONLY | DIRECTORY | CLOEXEC)
    except OSError:
        return False
    try:
        lock_file(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
