"""Open a checkpoint. Every file, header and index is validated before any value is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from ...errors import CheckpointError
from ...filesystem.printable import printable_name
from ..formats.checksum import Checksum, algorithm_of
from ..formats.embedded import KEY, covered, read_manifest
from ..formats.layout import (
    BIN,
    DAMAGED,
    DISTCP,
    METADATA,
    SAFETENSORS,
    Format,
    Index,
    find_entry,
    is_model_part,
    open_checked,
)
from ..formats.safetensors_file import read_header
from ..formats.seal import is_sealed
from ..formats.stored import FileTensor, StoredTensor, WeightFile
from ..formats.torch_file import read_tensors
from ..formats.zip_directory import comment_of
from .distributed import open_distributed
from .hub import is_hub_id, snapshot

_CHUNK = 8 * 2**20
_RETRIES = 5

ByteProgress = Callable[[int, int], None]  # bytes done, total bytes


class Checkpoint(Mapping[str, StoredTensor]):
    """An open checkpoint: a mapping from names to tensors. Its files stay readable after their directory is removed."""

    def __init__(
        self,
        path: Path,
        entry: Path,
        files: Mapping[str, WeightFile],
        tensors: Mapping[str, _LocatedTensor],
        index: Index | None,
        manifests: Mapping[str, Index],
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.entry = entry
        self.files = files
        self.notes = notes
        self.index = index if index is not None else manifests.get(entry.name)
        self._manifests = manifests
        self._tensors = dict(tensors)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open the checkpoint at `path`: a directory, a weight file, an index, or a Hub repository (`owner/name`).

        No value is read yet. A local directory takes precedence over a repository of the same name.

        Raises:
            CheckpointError: There is no checkpoint, or it is damaged or incomplete. The message names the file.
        """
        source = Path(path)
        local = snapshot(str(path)) if is_hub_id(str(path)) else source
        for attempt in range(_RETRIES):
            entry = find_entry(local)
            before = _stamp(entry)
            try:
                return cls._open(source, entry)
            except CheckpointError:
                # Try again if another process has saved here in the meantime: the new checkpoint is complete.
                if attempt + 1 == _RETRIES or (_stamp(entry) == before and find_entry(local) == entry):
                    raise
        raise AssertionError("the last attempt returns or raises")

    @classmethod
    def _open(cls, path: Path, entry: Path) -> Self:
        if entry.name == METADATA:
            return cls._open_distributed(path, entry)
        index = Index.read(entry) if entry.name.endswith(".json") else None
        names = index.files if index is not None else [entry.name]
        files: dict[str, WeightFile] = {}
        tensors: dict[str, _LocatedTensor] = {}
        manifests: dict[str, Index] = {}
        with ExitStack() as stack:
            for name in names:
                file = WeightFile(entry.parent / name, open_checked(entry.parent / name))
                files[name] = file
                stack.callback(file.close)
                held, text = _tensors(file)
                if (manifest := read_manifest(text, name, list(held))) is not None:
                    manifests[name] = manifest
                for key, tensor in held.items():
                    if key in tensors:
                        problem = f"contains '{printable_name(key)}', which {tensors[key].files[0]} contains too"
                        raise CheckpointError(problem, file=file.path, hint=DAMAGED)
                    tensors[key] = _LocatedTensor((name,), tensor)
            _check_index(entry, index, tensors)
            stack.pop_all()
        return cls(path, entry, files, tensors, index, manifests)

    @classmethod
    def _open_distributed(cls, path: Path, entry: Path) -> Self:
        with ExitStack() as stack:
            opened = open_distributed(entry, stack)
            stack.pop_all()
        tensors = {name: _LocatedTensor(opened.located[name], tensor) for name, tensor in opened.tensors.items()}
        return cls(path, entry, opened.files, tensors, None, {}, opened.notes)

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name].tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def file_of(self, name: str) -> str:
        """Return the name of the file that holds a tensor, or its first chunk."""
        return self._tensors[name].files[0]

    def files_of(self, name: str) -> tuple[str, ...]:
        """Return the names of the files that hold the chunks of a tensor: one, except in a distributed checkpoint."""
        return self._tensors[name].files

    @property
    def directory(self) -> Path:
        """The directory with the configuration of the model, if it has one."""
        parent = self.entry.parent
        if is_model_part(parent) and not (self.path.is_dir() and self.path.samefile(parent)):
            return parent.parent
        return parent

    @property
    def has_index(self) -> bool:
        """Return whether `index` was read from a file; otherwise it is the manifest in the weight file, if any."""
        return self.entry.name not in self.files

    @property
    def checksums(self) -> dict[str, str]:
        """Recorded checksum of each weight file. A file's own manifest takes precedence over the index."""
        found = self.index.checksums if self.index is not None else {}
        for manifest in self._manifests.values():
            found |= manifest.checksums
        return found

    @property
    def format(self) -> Format:
        """The format, according to the file names."""
        if self.entry.name == METADATA:
            return DISTCP
        return SAFETENSORS if next(iter(self.files)).endswith(SAFETENSORS.suffix) else BIN

    @property
    def is_own(self) -> bool:
        """Return whether Forgather wrote the checkpoint, according to its index."""
        return self.index is not None and "forgather_version" in self.index.metadata

    @property
    def recorded_non_finite(self) -> tuple[str, ...]:
        """Names of the tensors that contained NaN or Inf when they were written. The files may have changed since."""
        record = self.index.metadata.get("non_finite") if self.index is not None else None
        return tuple(str(name) for name in record) if isinstance(record, list) else ()

    @property
    def known_non_finite(self) -> frozenset[str] | None:
        """Names of the tensors with NaN or Inf, if a seal proves that the checkpoint is unchanged; else None."""
        if self.index is None or not isinstance(self.index.metadata.get("non_finite"), list):
            return None
        files = {name: os.fstat(file.descriptor) for name, file in self.files.items()}  # one at a time: few stay open
        sealed = is_sealed(self.entry if self.has_index else self.entry.parent, self.index.digest, files)
        return frozenset(self.recorded_non_finite) if sealed else None

    @property
    def is_changed(self) -> bool:
        """Return whether a file is newer than the index. False does not prove that the files are unchanged."""
        written = _stamp(self.entry)
        return written is None or any(os.fstat(f.descriptor).st_mtime_ns > written[1] for f in self.files.values())

    def verify(self, on_progress: ByteProgress | None = None) -> tuple[str, ...]:
        """Read every file and compare its checksum with the recorded one.

        Returns:
            The verified files: those with a recorded checksum of a known algorithm.

        Raises:
            CheckpointError: The checksum of a file differs from the recorded one.
        """
        recorded = self.checksums
        known = {name: file for name, file in self.files.items() if algorithm_of(recorded.get(name, ""))}
        done, total = 0, sum(file.size for file in known.values())
        for name, file in known.items():
            algorithm = str(algorithm_of(recorded[name]))
            checksum = Checksum(algorithm)
            for part in _covered(file, recorded[name] if name in self._manifests else None):
                checksum.update(part)
                done += part.nbytes
                if on_progress is not None:
                    on_progress(min(done, total), total)
            if checksum.text() != recorded[name]:
                reason = f"its {algorithm} checksum differs from the one recorded in {self.entry}"
                problem = f"has changed since it was saved: {reason}"
                raise CheckpointError(problem, file=file.path, hint="restore the file from a copy")
        return tuple(known)

    def close(self) -> None:
        """Close the files. Tensors that were mapped stay valid."""
        self._tensors = {}
        files, self.files = self.files, {}
        for file in files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _LocatedTensor:
    """A tensor, and the names of the files that hold it."""

    def __init__(self, files: tuple[str, ...], tensor: StoredTensor) -> None:
        self.files = files
        self.tensor = tensor


def _tensors(file: WeightFile) -> tuple[Mapping[str, StoredTensor], str | bytes | None]:
    """Return the tensors of a file, and the text that may contain a manifest."""
    if file.path.suffix != SAFETENSORS.suffix:
        return read_tensors(file), comment_of(file)
    header = read_header(file.descriptor, file.path)
    found = {n: FileTensor(item.shape, item.dtype, file, item.offset) for n, item in header.tensors.items()}
    return found, header.metadata.get(KEY)


def _covered(file: WeightFile, checksum: str | None) -> Iterator[memoryview]:
    """Yield the bytes that the checksum of a file covers.

    Args:
        file: The file.
        checksum: The checksum in the file's own manifest; None if it has no manifest, and all bytes are covered.
    """
    buffer = memoryview(bytearray(min(_CHUNK, file.size) or 1))
    for span in covered(file, checksum) if checksum is not None else ((0, file.size),):
        if isinstance(span, bytes):
            yield memoryview(span)
            continue
        for start in range(*span, _CHUNK):
            part = buffer[: min(_CHUNK, span[1] - start)]
            file.read(part, start)
            yield part


def _check_index(entry: Path, index: Index | None, tensors: Mapping[str, _LocatedTensor]) -> None:
    if index is None:
        return
    for name, file in index.weight_map.items():
        if name not in tensors:
            problem = f"lists '{printable_name(name)}', but no shard contains it"
            raise CheckpointError(problem, file=entry, hint=DAMAGED)
        if tensors[name].files[0] != file:
            problem = f"lists '{printable_name(name)}' in {file}, but {tensors[name].files[0]} contains it"
            raise CheckpointError(problem, file=entry, hint=DAMAGED)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
