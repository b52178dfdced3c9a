"""Make new weight files the checkpoint of a directory, in one step, and finish or undo what a dead process began.

docs/checkpoints.md has the argument. In short: files are durable under names that are free before anything changes;
then one rename of the index, or one removal of the entry that was preferred to it, makes them what loaders find. A
journal in the staging directory says which files are whose: whoever comes next removes those, and nobody else's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..disk import remove_files, sync_directory, sync_file, sync_tree, write_fully
from .layout import BIN, ENTRIES, SAFETENSORS, entry_of, weight_files

JOURNAL = "journal.json"

Identity = list[int]  # inode, time of change of the content in nanoseconds, size


def old_files(directory: Path) -> list[str]:
    """The files of all checkpoints in a directory, of either format: what a save makes superfluous."""
    found = {name for names in weight_files(directory).values() for name in names}
    return sorted(n for n in found if n in ENTRIES or n.endswith((SAFETENSORS.suffix, BIN.suffix)))


def commit_in_place(directory: Path, staging: Path, index_name: str, index: bytes) -> None:
    """Make the files in `staging`, a directory within `directory`, part of it, and the index its checkpoint.

    On return that is durable, and the files of older checkpoints are gone.

    Raises:
        OSError: The disk fails. Unless the last step was done, the old checkpoint stands, and settle() removes the new.
    """
    names = sorted(entry.name for entry in staging.iterdir())
    journal = {
        "index": index_name,
        "digest": hashlib.sha256(index).hexdigest(),
        "new": {name: _identity(staging / name) for name in names},
        "old": {
            name: _identity(directory / name) for name in old_files(directory) if os.path.lexists(directory / name)
        },
    }
    _write(staging / JOURNAL, json.dumps(journal).encode())
    sync_tree(staging)
    sync_directory(directory)
    for name in names:
        (staging / name).rename(directory / name)
    sync_directory(directory)
    _write(staging / index_name, index)
    (staging / index_name).rename(directory / index_name)
    sync_directory(directory)
    _retire(directory, index_name)
    sync_directory(directory)


def settle(directory: Path, staging: Path) -> None:
    """Finish or undo a save: remove the old files if the new checkpoint is the one that loads, else the new ones.

    Raises:
        OSError: The disk fails.
    """
    journal = _journal(staging)
    if journal is None:
        return  # nothing has left the staging directory
    index = directory / journal["index"]
    is_ours = _digest(index) == journal["digest"]
    if is_ours and entry_of(directory) == index.name:
        _remove(directory, journal["old"], keep={index.name})
    else:
        if is_ours:
            index.unlink()
        named = {name for names in weight_files(directory).values() for name in names}
        _remove(directory, journal["new"], keep=named)
    sync_directory(directory)


def _retire(directory: Path, index_name: str) -> None:
    """Remove the other entries. The one that has won until now goes last: that makes the new one win."""
    others = [name for name in reversed(ENTRIES) if name != index_name and os.path.lexists(directory / name)]
    for name in others:
        if name == others[-1]:
            sync_directory(directory)  # else a power cut could bring back one of the others when this one is gone
        remove_files([directory / name])


def _remove(directory: Path, files: dict[str, Identity], keep: Iterable[str]) -> None:
    kept, found = set(keep), []
    for name, identity in files.items():
        with suppress(FileNotFoundError):
            if name not in kept and _identity(directory / name) == identity:
                found.append(directory / name)
    remove_files(found)


def _journal(staging: Path) -> dict[str, Any] | None:
    try:
        return json.loads((staging / JOURNAL).read_bytes())  # type: ignore[no-any-return]
    except (FileNotFoundError, ValueError):  # it was not durable yet, and nothing was moved before it was
        return None


def _identity(file: Path) -> Identity:
    found = file.lstat()
    return [found.st_ino, found.st_mtime_ns, found.st_size]


def _digest(file: Path) -> str | None:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def _write(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_fully(descriptor, memoryview(data))
        sync_file(descriptor)
    finally:
        os.close(descriptor)
