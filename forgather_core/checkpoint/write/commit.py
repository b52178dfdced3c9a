"""Commit new weight files as the checkpoint of a directory in one step, and recover after an interrupted save.

docs/checkpoints.md explains why this is safe. In short: files are durable under unused names before anything changes.
Then one rename of the index (or of the only weight file), or one removal of the entry that loaders preferred, commits
them. A journal in the staging directory lists the files of each checkpoint; the next save removes only those.
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
    """Return the files of all checkpoints in a directory, of either format, which a save supersedes."""
    found = {name for names in weight_files(directory).values() for name in names}
    return sorted(n for n in found if n in ENTRIES or n.endswith((SAFETENSORS.suffix, BIN.suffix)))


def refuse_special(directory: Path) -> None:
    """Check that no directory, pipe, socket or device has the name of a weight file: a save would remove it.

    Raises:
        CheckpointError: A directory, pipe, socket or device has such a name.
    """
    for name in old_files(directory):
        with suppress(FileNotFoundError):
            mode = (directory / name).lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                hint = "move it, or save elsewhere"
                raise CheckpointError("is not a regular file", file=directory / name, hint=hint)


def commit_in_place(directory: Path, staging: Path, entry: str, index: bytes | None) -> None:
    """Move the files of `staging`, a subdirectory, into `directory` and commit them as its checkpoint.

    On return the commit is durable, and the files of older checkpoints are gone.

    Args:
        directory: Directory of the checkpoint.
        staging: Directory of the new files.
        entry: Name of the index, or of the only weight file.
        index: Content of the index; None if there is none.

    Raises:
        OSError: The disk fails. Before the commit, the old checkpoint is intact, and recover() removes the new files.
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


def recover(directory: Path, staging: Path) -> None:
    """Finish or undo an interrupted save: remove the old files if loaders use the new checkpoint, else the new files.

    A journal that Forgather cannot have written is reported and ignored.

    Args:
        directory: Directory of the checkpoint.
        staging: The staging directory of that save, in a marked temporary directory or from an earlier release.

    Raises:
        OSError: The disk fails.
    """
    try:
        journal = Journal.read(staging)
    except ValueError as error:
        _log.warning("%s is ignored, because it was not written by Forgather: %s", staging / JOURNAL, error)
        return
    if journal is None:
        return  # nothing has left the staging directory
    named = {name for names in weight_files(directory).values() for name in names}
    if journal.has_index:
        digest, shards = index_of(directory / journal.index)
        # A save moves its index to the directory after all of its shards.
        is_placed = (
            digest == journal.digest and shards == journal.shards.keys() and _are_unchanged(directory, journal.shards)
        )
    else:
        shards = {journal.index}
        is_placed = _are_unchanged(directory, {journal.index: journal.new[journal.index]})
    if is_placed and entry_of(directory) == journal.index:
        _remove(directory, journal.old, keep=shards | {journal.index})
    elif is_placed:
        (directory / journal.index).unlink()
        _undo(directory, staging, journal, keep=named - shards)
    else:
        _undo(directory, staging, journal, keep=named)
    sync_directory(directory)
    if not is_marked(staging.parent):
        _clear(staging, journal)


def _undo(directory: Path, staging: Path, journal: Journal, keep: Collection[str]) -> None:
    """Remove the new files. Configuration and sources are removed only if a mark proves that a save wrote them."""
    is_known = is_marked(staging.parent)
    _remove(directory, {n: i for n, i in journal.new.items() if is_known or n in journal.shards}, keep=keep)


def _retire(directory: Path, entry: str) -> None:
    """Remove the other entries, the preferred one last: after its removal, loaders use the new entry."""
    others = [name for name in reversed(ENTRIES) if name != entry and os.path.lexists(directory / name)]
    for name in others:
        if name == others[-1]:
            sync_directory(directory)  # otherwise a power cut could restore an entry that is already removed
        remove_files([directory / name])


def _remove(directory: Path, files: dict[str, Identity], keep: Collection[str]) -> None:
    found = []
    for name, identity in files.items():
        with suppress(FileNotFoundError):
            file = directory / name
            if name not in keep and identity_of(file) == identity and not stat.S_ISDIR(file.lstat().st_mode):
                found.append(file)
    remove_files(found)


def _are_unchanged(directory: Path, files: dict[str, Identity]) -> bool:
    """Return whether all files are in the directory, unchanged since the journal was written."""
    with suppress(OSError):
        return all(identity_of(directory / name) == identity for name, identity in files.items())
    return False


def _clear(staging: Path, journal: Journal) -> None:
    """Remove the files that a save of an earlier release left in its staging directory, which has no mark."""
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
