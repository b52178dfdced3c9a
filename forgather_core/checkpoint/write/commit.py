"""Make new weight files the checkpoint of a directory, in one step, and finish or undo what a dead process began.

docs/checkpoints.md has the argument. In short: files are durable under names that are free before anything changes;
then one rename of the index (or of the weight file, where there is only one), or one removal of the entry that was
preferred to it, makes them what loaders find. A
journal in the staging directory says which files are whose: whoever comes next removes those, and nobody else's.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from ...errors import CheckpointError
from ...filesystem.disk import remove_files, sync_directory, sync_file, sync_tree, write_fully
from ...filesystem.temporaries import is_marked
from ..formats.layout import BIN, ENTRIES, SAFETENSORS, entry_of, weight_files
from .journal import JOURNAL, Identity, Journal, identity_of, index_of

_log = logging.getLogger(__name__)


def old_files(directory: Path) -> list[str]:
    """The files of all checkpoints in a directory, of either format: what a save makes superfluous."""
    found = {name for names in weight_files(directory).values() for name in names}
    return sorted(n for n in found if n in ENTRIES or n.endswith((SAFETENSORS.suffix, BIN.suffix)))


def refuse_special(directory: Path) -> None:
    """Refuse a directory where something that is not a file has the name of a weight file: a save would remove it.

    Raises:
        CheckpointError: A directory, pipe, socket or device is in the way.
    """
    for name in old_files(directory):
        with suppress(FileNotFoundError):
            mode = (directory / name).lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise CheckpointError(f"{directory / name} is in the way, because it is not a regular file: move it")


def commit_in_place(directory: Path, staging: Path, entry: str, index: bytes | None) -> None:
    """Make the files in `staging`, a directory within `directory`, part of it, and one of them its checkpoint.

    On return that is durable, and the files of older checkpoints are gone.

    Args:
        directory: Where the checkpoint goes.
        staging: Where its files are.
        entry: Name of the index, or of the only weight file.
        index: The text of the index; None where there is none.

    Raises:
        OSError: The disk fails. Unless the last step was done, the old checkpoint stands, and settle() removes the new.
    """
    names = sorted(entry.name for entry in staging.iterdir())
    journal = Journal(
        index=entry,
        digest=hashlib.sha256(index).hexdigest() if index is not None else "",
        new={name: identity_of(staging / name) for name in names},
        old={n: identity_of(directory / n) for n in old_files(directory) if os.path.lexists(directory / n)},
    )
    _write(staging / JOURNAL, journal.to_json())
    sync_tree(staging)
    sync_directory(directory)
    if others := [name for name in names if name != entry]:
        for name in others:
            (staging / name).rename(directory / name)
        sync_directory(directory)
    if index is not None:
        _write(staging / entry, index)
    (staging / entry).rename(directory / entry)
    sync_directory(directory)
    _retire(directory, entry)
    sync_directory(directory)


def settle(directory: Path, staging: Path) -> None:
    """Finish or undo a save: remove the old files if the new checkpoint is the one that loads, else the new ones.

    A journal that a save cannot have written is reported and not obeyed.

    Args:
        directory: The directory that was saved into.
        staging: Where the files were written: in a marked temporary directory, or one of an earlier release.

    Raises:
        OSError: The disk fails.
    """
    try:
        journal = Journal.read(staging)
    except ValueError as error:
        _log.warning("%s is ignored, because Forgather did not write it: %s", staging / JOURNAL, error)
        return
    if journal is None:
        return  # nothing has left the staging directory
    named = {name for names in weight_files(directory).values() for name in names}
    if journal.has_index:
        digest, shards = index_of(directory / journal.index)
        # Only a save whose shards are all there can have put its index in place.
        is_ours = digest == journal.digest and shards == journal.shards.keys() and _is_there(directory, journal.shards)
    else:
        shards = {journal.index}
        is_ours = _is_there(directory, {journal.index: journal.new[journal.index]})
    if is_ours and entry_of(directory) == journal.index:
        _remove(directory, journal.old, keep=shards | {journal.index})
    elif is_ours:
        (directory / journal.index).unlink()
        _undo(directory, staging, journal, keep=named - shards)
    else:
        _undo(directory, staging, journal, keep=named)
    sync_directory(directory)
    if not is_marked(staging.parent):
        _clear(staging, journal)


def _undo(directory: Path, staging: Path, journal: Journal, keep: Collection[str]) -> None:
    """Remove the new files. Configuration and sources go only if a marked directory proves that a save wrote them."""
    is_known = is_marked(staging.parent)
    _remove(directory, {n: i for n, i in journal.new.items() if is_known or n in journal.shards}, keep=keep)


def _retire(directory: Path, entry: str) -> None:
    """Remove the other entries. The one that has won until now goes last: that makes the new one win."""
    others = [name for name in reversed(ENTRIES) if name != entry and os.path.lexists(directory / name)]
    for name in others:
        if name == others[-1]:
            sync_directory(directory)  # else a power cut could bring back one of the others when this one is gone
        remove_files([directory / name])


def _remove(directory: Path, files: dict[str, Identity], keep: Collection[str]) -> None:
    found = []
    for name, identity in files.items():
        with suppress(FileNotFoundError):
            file = directory / name
            if name not in keep and identity_of(file) == identity and not stat.S_ISDIR(file.lstat().st_mode):
                found.append(file)
    remove_files(found)


def _is_there(directory: Path, files: dict[str, Identity]) -> bool:
    """Whether all of the files are in the directory, as they were when the journal was written."""
    with suppress(OSError):
        return all(identity_of(directory / name) == identity for name, identity in files.items())
    return False


def _clear(staging: Path, journal: Journal) -> None:
    """Remove what a save of an earlier release left in its staging directory, which has no mark: its own files."""
    _remove(staging, journal.new, keep=())
    if journal.has_index and index_of(staging / journal.index)[0] == journal.digest:
        (staging / journal.index).unlink()
    (staging / JOURNAL).unlink()


def _write(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_fully(descriptor, memoryview(data))
        sync_file(descriptor)
    finally:
        os.close(descriptor)
