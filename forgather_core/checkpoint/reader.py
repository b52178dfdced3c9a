"""Open a checkpoint: every file, every number of a header and every promise of an index is checked before any value."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from ..errors import CheckpointError
from .checksum import Checksum, algorithm_of
from .hub import is_hub_id, snapshot
from .layout import BIN, SAFETENSORS, Format, Index, find_entry, open_checked
from .safetensors_file import read_header
from .seal import is_sealed
from .stored import FileTensor, StoredTensor, WeightFile
from .torch_file import read_tensors
from .wording import shown

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
    ) -> None:
        self.path = path
        self.entry = entry
        self.files = files
        self.index = index
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
        with ExitStack() as stack:
            for name in names:
                file = WeightFile(entry.parent / name, open_checked(entry.parent / name))
                files[name] = file
                stack.callback(file.close)
                for key, tensor in _tensors(file).items():
                    if key in tensors:
                        raise CheckpointError(f"{file.path} holds '{shown(key)}', which {tensors[key].file} holds too")
                    tensors[key] = Placed(name, tensor)
            _check_index(entry, index, tensors)
            stack.pop_all()
        return cls(path, entry, files, tensors, index)

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
        sealed = is_sealed(self.entry, self.index.digest, files)
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
        recorded = self.index.checksums if self.index is not None else {}
        known = {name: file for name, file in self.files.items() if algorithm_of(recorded.get(name, ""))}
        done, total = 0, sum(file.size for file in known.values())
        for name, file in known.items():
            algorithm = str(algorithm_of(recorded[name]))
            checksum = Checksum(algorithm)
            buffer = memoryview(bytearray(min(_CHUNK, file.size) or 1))
            for start in range(0, file.size, _CHUNK):
                part = buffer[: min(_CHUNK, file.size - start)]
                file.read(part, start)
                checksum.update(part)
                done += part.nbytes
                if on_progress is not None:
                    on_progress(done, total)
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


def _tensors(file: WeightFile) -> Mapping[str, StoredTensor]:
    if file.path.suffix != SAFETENSORS.suffix:
        return read_tensors(file)
    header = read_header(file.descriptor, file.path)
    return {name: FileTensor(item.shape, item.dtype, file, item.offset) for name, item in header.items()}


def _check_index(entry: Path, index: Index | None, tensors: Mapping[str, Placed]) -> None:
    if index is None:
        return
    for name, file in index.weight_map.items():
        if name not in tensors:
            raise CheckpointError(f"{entry} promises '{shown(name)}', but no shard holds it: the checkpoint is damaged")
        if tensors[name].file != file:
            raise CheckpointError(f"{entry} says that {file} holds '{shown(name)}', but {tensors[name].file} does")


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
