"""A save: the tensors of a checkpoint, written in place or into a directory that replaces the old one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ...filesystem.atomic import (
    carry_over,
    is_touched,
    replace_directory,
    staging_directory,
)
from ...filesystem.disk import forget_pages, make_directory
from ...filesystem.paths import refuse_working_directory
from ...filesystem.printable import printable_name
from ..formats.layout import Format, free_generation
from ..formats.seal import MINIMUM, seal
from ..formats.stored import StoredTensor
from ..read.reader import ByteProgress
from ..report import SaveReport, counted_names
from .commit import commit_in_place, old_files, recover, refuse_special
from .companions import CONFIG, ConfigUpdate, changes, config_update, read_config, write_companions
from .locking import LOCK, STAGING, save_locks
from .write import Written, main_dtype, shard_groups, write_shards


def save_with_locks(job: Job, directory: Path, on_wait: Callable[[], None] | None = None) -> SaveReport:
    """Save into a new or existing directory, under its locks.

    Raises:
        OSError, DirectoryError: The directory cannot be written; the old checkpoint is then intact.
    """
    while True:
        exchange = job.needs_exchange(directory)
        if not exchange:
            make_directory(directory)
        with save_locks(directory, replace=exchange or is_touched(directory), on_wait=on_wait):
            if job.needs_exchange(directory) == exchange:
                return job.save(directory)
        # Another process changed the directory first: other locks may be required.


def refuse_names(names: Iterable[str]) -> None:
    """Check that every name can be stored in a file.

    Raises:
        CheckpointError: A name is not UTF-8.
    """
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            problem = f"the name of the tensor '{printable_name(name)}' is not UTF-8"
            raise CheckpointError(problem, hint="rename the tensor") from None


@dataclass(frozen=True)
class Job:
    """A save: its tensors, format and limits. The methods must be called under the directory's lock.

    Args:
        tensors: The tensors by name.
        format: The format.
        limit: Maximum bytes of tensors in one file.
        on_progress: Called with the bytes written and the total bytes.
        model: The model whose configuration belongs to the weights; None keeps the existing configuration.
        notes: Information for the user, one sentence each.
    """

    tensors: Mapping[str, StoredTensor]
    format: Format
    limit: int
    on_progress: ByteProgress | None = None
    model: Any = None
    notes: tuple[str, ...] = ()

    def save(self, directory: Path) -> SaveReport:
        """Save in place, or replace the directory if its configuration must change.

        Raises:
            CheckpointError: Something other than a file has the name of a weight file.
        """
        refuse_special(directory)
        return self.exchange(directory) if self.needs_exchange(directory) else self.save_in_place(directory)

    def needs_exchange(self, directory: Path) -> bool:
        """Return whether the directory must be replaced: it is new, or its configuration must change."""
        update = self._config_update(directory)
        return update in (ConfigUpdate.REPLACE, ConfigUpdate.DTYPE) or (
            update is ConfigUpdate.ADD and not directory.exists()
        )

    def write(self, directory: Path, unused_in: Path | None = None) -> Written:
        """Write the shards into `directory`, under names that do not exist in `unused_in` (default: `directory`)."""
        refuse_names(self.tensors)
        groups = shard_groups(self.tensors, self.limit)
        generation = free_generation(unused_in or directory, self.format, len(groups))
        names = self.format.names(len(groups), generation)
        return write_shards(self.tensors, groups, names, directory, self.format, self.on_progress)

    def save_in_place(self, directory: Path) -> SaveReport:
        """Save into an existing directory, and commit by the rename of the index or of the single weight file."""
        with staging_directory(directory / STAGING, recover=partial(recover, directory)) as staging:
            if (update := self._config_update(directory)) is ConfigUpdate.ADD:
                write_companions(self.model, update, directory, staging, main_dtype(self.tensors))
            forget_pages(directory / name for name in old_files(directory))
            written = self.write(staging, unused_in=directory)
            commit_in_place(directory, staging, *self._entry(written))
        return self.report(directory, written)

    def exchange(self, directory: Path) -> SaveReport:
        """Save into a new directory that replaces the old one and keeps its other files.

        Raises:
            DirectoryError: The directory is the working directory, or contains it.
        """
        refuse_working_directory(directory)
        with staging_directory(directory) as staging:
            update = self._config_update(directory)
            notes = self._notes(update, directory)
            write_companions(self.model, update, directory, staging, main_dtype(self.tensors))
            written = self.write_into(staging)
            known = {entry.name for entry in directory.iterdir()} if directory.is_dir() else set()
            new = {entry.name for entry in staging.iterdir()}
            carry_over(directory, staging, sorted(known - new - superseded(directory)))
            replace_directory(staging, directory, known=known)
        return self.report(directory, written, notes)

    def write_into(self, directory: Path) -> Written:
        """Write shards and index into a directory that is not yet visible to loaders."""
        written = self.write(directory)
        entry, index = self._entry(written)
        if index is not None:
            (directory / entry).write_bytes(index)
        return written

    def _entry(self, written: Written) -> tuple[str, bytes | None]:
        """Return the file that loaders look for: the index and its content, or the single weight file and None."""
        if written.files == (self.format.single,):
            return self.format.single, None
        return self.format.index, written.index.to_json()

    def _config_update(self, directory: Path) -> ConfigUpdate:
        return config_update(self.model, directory, main_dtype(self.tensors))

    def _notes(self, update: ConfigUpdate, directory: Path) -> tuple[str, ...]:
        if update is not ConfigUpdate.REPLACE or not (directory / CONFIG).is_file():
            return ()
        try:
            existing = read_config(directory)
            differences = changes(self.model, existing if existing is not None else {})
        except ValueError:
            return (f"{CONFIG} was replaced: it was not a JSON object",)
        return (f"{CONFIG} belonged to another model and was replaced: {', '.join(differences[:3])}",)

    def report(self, directory: Path, written: Written, notes: tuple[str, ...] = ()) -> SaveReport:
        """Seal the saved checkpoint and return its report."""
        non_finite = written.index.metadata["non_finite"]
        if non_finite:
            verb = "was" if len(non_finite) == 1 else "were"
            notes = (*notes, counted_names(non_finite, f"{verb} saved with NaN or Inf"))
        entry, index = self._entry(written)
        files = written.files if index is None else (*written.files, entry)
        if written.nbytes >= MINIMUM:
            shards = {name: directory / name for name in written.files}
            seal(directory if index is None else directory / entry, index or b"", shards)
        return SaveReport(
            directory, files, len(self.tensors), written.nbytes, written.index.checksums, (*self.notes, *notes)
        )


def superseded(directory: Path) -> set[str]:
    """Return the names of the old weight files and Forgather's lock file, which a replaced directory does not keep."""
    return {*old_files(directory), LOCK} if directory.is_dir() else set()
