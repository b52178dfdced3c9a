"""Open a checkpoint: every file, every number of a header and every promise of an index is checked before any value."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from ...errors import CheckpointError
from ...filesystem.wording import printable_name
from ..formats.checksum import Checksum, algorithm_of
from ..formats.embedded import KEY, covered, read_manifest
from ..formats.layout import BIN, SAFETENSORS, Format, Index, find_entry, open_checked
from ..formats.safetensors_file import read_header
from ..formats.seal import is_sealed
from ..formats.stored import FileTensor, StoredTensor, WeightFile
from ..formats.torch_file import read_tensors
from ..formats.zip_directory import comment_of
from .hub import is_hub_id, snapshot

_CHUNK = 8 * 2**20
_RETRIES = 5

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class Checkpoint(Mapping[str, StoredTensor]):
    """An open checkpoint: its tensors by name. Its files stay open, so that it outlives the directory where it lies."""

    def __init__(
        self,
        path: Path,
        entry: Path,
        files: Mapping[str, WeightFile],
        tensors: Mapping[str, Placed],
        index: Index | None,
        manifests: Mapping[str, Index],
    ) -> None:
        self.path = path
        self.entry = entry
        self.files = files
        self.index = index if index is not None else manifests.get(entry.name)
        self._manifests = manifests
        self._tensors = dict(tensors)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open the checkpoint at `path`: a directory, a weight file, an index, or a repository of the hub.

        No value is read yet. A directory of this machine is preferred to a repository of the same name.

        Raises:
            CheckpointError: There is none, or it is damaged or incomplete. The text names the file.
        """
        asked = Path(path)
        place = snapshot(str(path)) if is_hub_id(str(path)) else asked
        for attempt in range(_RETRIES):
            entry = find_entry(place)
            before = _stamp(entry)
            try:
                return cls._open(asked, entry)
            except CheckpointError:
                # Another process may have saved here meanwhile: then the new checkpoint is there, whole.
                if attempt + 1 == _RETRIES or (_stamp(entry) == before and find_entry(place) == entry):
                    raise
        raise AssertionError("the last attempt returns or raises")

    @classmethod
    def _open(cls, path: Path, entry: Path) -> Self:
        index = Index.read(entry) if entry.name.endswith(".json") else None
        names = index.files if index is not None else [entry.name]
        files: dict[str, WeightFile] = {}
        tensors: dict[str, Placed] = {}
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
                        raise CheckpointError(
                            f"{file.path} holds '{printable_name(key)}', which {tensors[key].file} holds too"
                        )
                    tensors[key] = Placed(name, tensor)
            _check_index(entry, index, tensors)
            stack.pop_all()
        return cls(path, entry, files, tensors, index, manifests)

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name].tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def file_of(self, name: str) -> str:
        """Name of the file that holds a tensor."""
        return self._tensors[name].file

    @property
    def has_index(self) -> bool:
        """Whether `index` is a file; otherwise the weight file has the manifest that Forgather wrote, if any."""
        return self.entry.name not in self.files

    @property
    def checksums(self) -> dict[str, str]:
        """Checksum by weight file, where one is recorded. A file's own manifest is preferred to the index."""
        found = self.index.checksums if self.index is not None else {}
        for manifest in self._manifests.values():
            found |= manifest.checksums
        return found

    @property
    def format(self) -> Format:
        """Its format, by the name of its files."""
        return SAFETENSORS if next(iter(self.files)).endswith(SAFETENSORS.suffix) else BIN

    @property
    def is_own(self) -> bool:
        """Whether its index says that Forgather wrote it."""
        return self.index is not None and "forgather_version" in self.index.metadata

    @property
    def recorded_non_finite(self) -> tuple[str, ...]:
        """The tensors that the index lists as NaN or Inf when they were written. The files may have changed since."""
        record = self.index.metadata.get("non_finite") if self.index is not None else None
        return tuple(str(name) for name in record) if isinstance(record, list) else ()

    @property
    def known_non_finite(self) -> frozenset[str] | None:
        """The tensors that hold NaN or Inf, as recorded by a save since which nothing has changed; None if unknown."""
        if self.index is None or not isinstance(self.index.metadata.get("non_finite"), list):
            return None
        files = {name: os.fstat(file.descriptor) for name, file in self.files.items()}  # one at a time: few are open
        sealed = is_sealed(self.entry if self.has_index else self.entry.parent, self.index.digest, files)
        return frozenset(self.recorded_non_finite) if sealed else None

    @property
    def is_changed(self) -> bool:
        """Whether a file is known to be younger than the index. A file that is older may have changed just as well."""
        written = _stamp(self.entry)
        return written is None or any(os.fstat(f.descriptor).st_mtime_ns > written[1] for f in self.files.values())

    def verify(self, on_progress: Progress | None = None) -> tuple[str, ...]:
        """Read every file and compare its checksum with the one that was recorded as it was written.

        Returns:
            The files that have such a record, by an algorithm that is known, all of them unchanged.

        Raises:
            CheckpointError: A file has changed since.
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
                raise CheckpointError(
                    f"{file.path} has changed since it was saved: its {algorithm} checksum differs from the one in "
                    f"{self.entry}"
                )
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


class Placed:
    """A tensor and the name of the file that holds it."""

    def __init__(self, file: str, tensor: StoredTensor) -> None:
        self.file = file
        self.tensor = tensor


def _tensors(file: WeightFile) -> tuple[Mapping[str, StoredTensor], str | bytes | None]:
    """The tensors of a file, and the text in which it may have a manifest."""
    if file.path.suffix != SAFETENSORS.suffix:
        return read_tensors(file), comment_of(file)
    header = read_header(file.descriptor, file.path)
    found = {n: FileTensor(item.shape, item.dtype, file, item.offset) for n, item in header.tensors.items()}
    return found, header.metadata.get(KEY)


def _covered(file: WeightFile, checksum: str | None) -> Iterator[memoryview]:
    """The bytes of a file that its checksum covers: all, or those that one in its own manifest does."""
    buffer = memoryview(bytearray(min(_CHUNK, file.size) or 1))
    for place in covered(file, checksum) if checksum is not None else ((0, file.size),):
        if isinstance(place, bytes):
            yield memoryview(place)
            continue
        for start in range(*place, _CHUNK):
            part = buffer[: min(_CHUNK, place[1] - start)]
            file.read(part, start)
            yield part


def _check_index(entry: Path, index: Index | None, tensors: Mapping[str, Placed]) -> None:
    if index is None:
        return
    for name, file in index.weight_map.items():
        if name not in tensors:
            raise CheckpointError(
                f"{entry} promises '{printable_name(name)}', but no shard holds it: the checkpoint is damaged"
            )
        if tensors[name].file != file:
            raise CheckpointError(
                f"{entry} says that {file} holds '{printable_name(name)}', but {tensors[name].file} does"
            )


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
