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
        ForgatherError: The system has no locks.
        OSError: The directory cannot be created.
    """
    require_posix("writing directories")
    place = target.parent / f".{short(target.name)}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    place.mkdir()
    descriptor = os.open(place, os.O_RDONLY | DIRECTORY | CLOEXEC)
    try:
        lock_file(descriptor, wait=True)
        os.close(os.open(mark_of(place), os.O_WRONLY | os.O_CREAT | os.O_EXCL | CLOEXEC, 0o666))
    except OSError:
        os.close(descriptor)
        with suppress(OSError):
            place.rmdir()
        raise
    return place, descriptor


def mark_of(place: Path) -> Path:
    """Return the mark of a temporary directory. Its name contains the inode, so that a copy is not marked."""
    return place / f".forgather-temporary-{place.stat().st_ino}"


def is_marked(place: Path) -> bool:
    """Return whether Forgather created this temporary directory."""
    return place.is_dir() and not place.is_symlink() and os.path.lexists(mark_of(place))


def replaced_name(target: Path) -> str:
    """Return the name of a replaced target in the temporary directory, on systems that cannot exchange directories."""
    return short(target.name) + _REPLACED


def discard(place: Path, target: Path, recover: Recover | None) -> None:
    """Recover from a temporary directory and remove it, if it is marked or empty.

    Args:
        place: The temporary directory. Nothing is removed from an unmarked one.
        target: The resolved target beside it.
        recover: Called first with the directory that was being written.
    """
    marked = is_marked(place)
    try:
        if marked and (old := place / replaced_name(target)).is_dir() and not os.path.lexists(target):
            old.rename(target)  # the process died between two renames
        written = place / target.name if marked else place  # releases without marks wrote directly into it
        if recover is not None and written.is_dir():
            recover(written)
    except OSError:
        return  # the disk failed: the next process that writes here tries again
    if marked:
        _remove(place)
    else:
        with suppress(OSError):
            place.rmdir()
        if place.is_dir():
            _log.warning("%s is kept, because it has no mark of Forgather: remove it if it is not needed", place)


def _remove(place: Path) -> None:
    mark = mark_of(place)
    for entry in place.iterdir():
        if entry == mark:
            continue
        if entry.is_dir() and not entry.is_symlink():
            with suppress(OSError):
                shutil.rmtree(entry)
        else:
            with suppress(OSError):
                entry.unlink()
    with suppress(OSError):
        if [entry.name for entry in place.iterdir()] == [mark.name]:
            mark.unlink()
            place.rmdir()


def sweep_stale(target: Path, *, recover: Recover | None = None) -> None:
    """Remove the temporary directories of dead processes beside `target`; live processes hold locks on their own.

    Requires the lock of `target`.

    Args:
        target: Path that they were writing.
        recover: Called with the directory that was being written before it is removed.
    """
    target = resolved(target)
    if not target.parent.is_dir():
        return
    _restore_unmarked(target)
    for place in _abandoned(target):
        discard(place, target, recover)


def _restore_unmarked(target: Path) -> None:
    """Restore a target that a release without marks had moved away, if its temporary directory proves that it died."""
    old = _old(target)
    if not os.path.lexists(target) and old.is_dir() and not old.is_symlink() and _died_replacing(target):
        old.rename(target)


def _died_replacing(target: Path) -> bool:
    return any(not is_marked(place) and any(place.iterdir()) for place in _abandoned(target))


def _abandoned(target: Path) -> list[Path]:
    pattern = _temporaries(target)
    entries = [entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)]
    return [entry for entry in entries if entry.is_dir() and not entry.is_symlink() and _is_abandoned(entry)]


def sweep_marked(directory: Path, targets: re.Pattern[str]) -> None:
    """Remove marked temporary directories of dead processes for every target in `directory` whose name matches."""
    pattern = re.compile(rf"\.({targets.pattern})\.tmp-\d+-[0-9a-f]{{8}}")
    for place in directory.iterdir():
        found = pattern.fullmatch(place.name)
        if found and is_marked(place) and _is_abandoned(place):
            discard(place, directory / found[1], None)


def is_touched(target: Path) -> bool:
    """Return whether a lock or a temporary directory is beside `target`: a process is writing there, or has died."""
    target = resolved(target)
    pattern, lock = _temporaries(target), lock_of(target)
    names = (lock.name, _old(target).name)
    entries = target.parent.iterdir() if target.parent.is_dir() else ()
    return any(entry.name in names or pattern.fullmatch(entry.name) for entry in entries)


def replaced_by(path: Path) -> Path:
    """Return the path of the content of `path`, which is elsewhere between the two renames of a replacement."""
    if os.path.lexists(path):
        return path
    target = resolved(path)
    if not target.parent.is_dir():
        return path
    pattern = _temporaries(target)
    for place in target.parent.iterdir():
        if pattern.fullmatch(place.name) and is_marked(place) and (old := place / replaced_name(target)).is_dir():
            return old
    return _old(target) if _old(target).is_dir() and _died_replacing(target) else path


def _old(target: Path) -> Path:
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
