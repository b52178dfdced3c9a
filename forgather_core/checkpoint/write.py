"""Write the files of a checkpoint into an empty directory: sharded, durable, hashed as they are written."""

from __future__ import annotations

import importlib.metadata
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from ..disk import sync_file, write_fully
from .checksum import Checksum, record
from .embedded import COMMENT_LIMIT, KEY, blank_checksum, comment_bytes, manifest_text, with_checksum
from .finite import non_finite
from .fp8 import DTYPES as FP8
from .fp8 import has_scale
from .layout import SAFETENSORS, Format, Index
from .reader import Progress
from .safetensors_file import header_bytes, write_order
from .stored import StoredTensor, memory_of
from .threads import serial_pool
from .wording import dtype_of

_CHUNK = 8 * 2**20
_SMALL = 256 * 2**10


@dataclass(frozen=True)
class Written:
    """What was written: the shards, and the index that tells of them."""

    files: tuple[str, ...]
    index: Index

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return int(self.index.metadata["total_size"])


def write_shards(
    tensors: Mapping[str, StoredTensor],
    groups: Sequence[Sequence[str]],
    names: Sequence[str],
    directory: Path,
    format: Format,
    on_progress: Progress | None = None,
) -> Written:
    """Write the weight files, each durable, without the index. The single file of a format has its manifest within.

    Args:
        tensors: What is written.
        groups: The names of the tensors of each file.
        names: The names of the files.
        directory: Where to.
        format: How.
        on_progress: Called with the bytes written and the bytes in all.

    Raises:
        OSError: The disk is full, or fails.
        CheckpointError: The format has no such kind of number.
    """
    progress = _Progress(sum(tensor.nbytes for tensor in tensors.values()), on_progress)
    checksums: dict[str, str] = {}
    write = _write_safetensors if format is SAFETENSORS else _write_bin
    damaged: list[str] = []
    with serial_pool(1, "hash") as hasher, serial_pool(1, "scan") as scanner:
        for file, group in zip(names, groups, strict=True):
            with HashedFile(directory / file, hasher, scanner) as stream:
                manifest = None
                if file == format.single:
                    manifest = _metadata(tensors, format, {file: blank_checksum()}, [])
                write(stream, {name: tensors[name] for name in group}, progress, manifest)
            checksums[file] = stream.checksum
            damaged += stream.damaged
    weight_map = {name: file for file, group in zip(names, groups, strict=True) for name in group}
    return Written(tuple(names), Index(weight_map, _metadata(tensors, format, checksums, damaged)))


class _Progress:
    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self._done = 0
        self._total = total
        self._on_progress = on_progress

    def add(self, count: int) -> None:
        self._done += count
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)


def shard_groups(tensors: Mapping[str, StoredTensor], limit: int) -> list[list[str]]:
    """The names of the tensors of each file, in order; none is above the limit but for the sake of a single tensor."""
    groups: list[list[str]] = []
    room = 0
    for name, tensor in tensors.items():
        if not groups or tensor.nbytes > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= tensor.nbytes
    return groups or [[]]


def main_dtype(tensors: Mapping[str, StoredTensor]) -> str | None:
    """The floating-point dtype that most numbers have, by name: what transformers takes for that of the model.

    FP8 weights with scales do not count: they stand for numbers of another dtype.
    """
    counts: Counter[torch.dtype] = Counter()
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point and not (tensor.dtype in FP8 and has_scale(name, tensors)):
            counts[tensor.dtype] += prod(tensor.shape)
    return dtype_of(counts.most_common(1)[0][0]) if counts else None


def _metadata(
    tensors: Mapping[str, StoredTensor], format: Format, checksums: Mapping[str, str], damaged: list[str]
) -> dict[str, Any]:
    dtype = main_dtype(tensors)
    metadata = {
        "total_size": sum(tensor.nbytes for tensor in tensors.values()),
        "total_parameters": sum(prod(tensor.shape) for tensor in tensors.values()),
        "format": format.suffix.removeprefix("."),
        **({"dtype": dtype} if dtype is not None else {}),
        "forgather_version": importlib.metadata.version("forgather"),
        "torch_version": torch.__version__,
        "non_finite": sorted(damaged),
    }
    return record(metadata, checksums)


class HashedFile:
    """A new file that is hashed on another thread as it is written, and durable when it is closed without an error.

    Args:
        path: Where; nothing may be there.
        hasher: A single thread. What is handed to it is done in that order.
        scanner: Another one, which looks whether numbers are finite.

    Attributes:
        checksum: Of all that was written, once it is closed.
        damaged: Names of the tensors that are not finite, in the order in which they were written.
    """

    def __init__(self, path: Path, hasher: Executor, scanner: Executor) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._hash = Checksum()
        self._hasher = hasher
        self._scanner = scanner
        self._pending = bytearray()
        self._behind: list[Future[None]] = []  # what is being hashed
        self._last: Callable[[], tuple[int, bytes]] | None = None
        self.checksum = ""
        self.damaged: list[str] = []

    def leave_room(self, size: int) -> None:
        """Begin the file with `size` bytes that `finish_with` provides."""
        os.lseek(self._descriptor, size, os.SEEK_SET)

    def finish_with(self, last: Callable[[], tuple[int, bytes]]) -> None:
        """Set what is written last, when `damaged` is known.

        Args:
            last: Returns where it goes, from the beginning of the file or, if negative, from its end, and the bytes,
                which are hashed with a placeholder for the checksum and written with the checksum.
        """
        self._last = last

    def write(self, data: Any) -> int:
        """Append bytes; on return they need no longer be kept.

        Raises:
            OSError: The disk does not take them.
        """
        memory = memoryview(data).cast("B")
        if memory.nbytes < _SMALL:
            self._pending += memory
            if len(self._pending) >= _SMALL:
                self._drain()
        else:
            self._drain()
            self._put(memory)
            self._catch_up()
        return memory.nbytes

    def write_tensor(self, name: str, values: Tensor, *, later: bool) -> None:
        """Append the bytes of a contiguous tensor on the CPU, and look whether it is finite.

        Args:
            name: Its name.
            values: The tensor, which is kept until it is hashed.
            later: Whether that may be later: whether keeping it costs nothing.

        Raises:
            OSError: The disk does not take them.
        """
        self._drain()
        flat, step = values.view(-1), max(1, _CHUNK // values.element_size())
        for start in range(0, flat.numel(), step):
            part = flat[start : start + step]
            self._behind.append(self._hasher.submit(self._read, part))
            write_fully(self._descriptor, memory_of(part))
        self.look(name, values)
        if not later:
            self._catch_up()

    def look(self, name: str, values: Tensor) -> None:
        """Look whether a tensor is finite that is written by other means."""
        self._behind.append(self._scanner.submit(self._scan, name, values))

    def _drain(self) -> None:
        pending, self._pending = self._pending, bytearray()
        if pending:
            self._put(memoryview(pending))

    def _put(self, memory: memoryview) -> None:
        for start in range(0, memory.nbytes, _CHUNK):
            chunk = memory[start : start + _CHUNK]
            self._behind.append(self._hasher.submit(self._hash.update, chunk))
            write_fully(self._descriptor, chunk)

    def _read(self, part: Tensor) -> None:
        self._hash.update(memory_of(part))

    def _scan(self, name: str, values: Tensor) -> None:
        if non_finite(values):
            self.damaged.append(name)

    def _catch_up(self) -> None:
        """Wait until all is hashed that has been written."""
        while self._behind:
            self._behind.pop().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._drain()
                if self._last is None or not all(done.done() for done in self._behind):
                    sync_file(self._descriptor)  # while the hash catches up
                self._catch_up()
                self._finish()
        finally:
            self._catch_up()
            os.close(self._descriptor)
        self.checksum = self._hash.text()

    def _finish(self) -> None:
        if self._last is None:
            return
        at, text = self._last()
        self._hash.update(text)
        os.lseek(self._descriptor, at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        write_fully(self._descriptor, memoryview(with_checksum(text, self._hash.text())))
        sync_file(self._descriptor)


def _write_safetensors(
    stream: HashedFile,
    group: Mapping[str, StoredTensor],
    progress: _Progress,
    manifest: Mapping[str, Any] | None,
) -> None:
    order = write_order({name: tensor.dtype for name, tensor in group.items()})

    def header() -> bytes:
        texts = {KEY: manifest_text(manifest, order, stream.damaged)} if manifest is not None else {}
        return header_bytes(((name, group[name].dtype, group[name].shape) for name in order), texts)

    if manifest is None:
        stream.write(header())
    else:
        stream.leave_room(len(header()))
        stream.finish_with(lambda: (0, header()))
    for name in order:
        stream.write_tensor(name, group[name].mapped(), later=group[name].is_resident)
        progress.add(group[name].nbytes)


def _write_bin(
    stream: HashedFile,
    group: Mapping[str, StoredTensor],
    progress: _Progress,
    manifest: Mapping[str, Any] | None,
) -> None:
    state: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in group.items():
        values = tensor.tensor()
        if values.untyped_storage().data_ptr() in storages:  # torch saves a storage once, and for one dtype
            values = values.clone()
        storages.add(values.untyped_storage().data_ptr())
        state[name] = values
    reporting = _Reporting(stream, progress)
    try:
        torch.save(state, reporting)  # type: ignore[arg-type]
    except RuntimeError as error:  # torch's writer hides what the disk said
        raise (reporting.failure or error) from None
    progress.add(sum(tensor.nbytes for tensor in group.values()) - reporting.counted)
    for name, values in state.items():
        stream.look(name, values)
    if manifest is not None:
        stream.finish_with(
            lambda: comment_bytes(manifest_text(manifest, list(group), stream.damaged, limit=COMMENT_LIMIT))
        )


class _Reporting:
    """A file for torch.save() that keeps the error of the disk: torch tells only that there was one."""

    def __init__(self, stream: HashedFile, progress: _Progress) -> None:
        self._stream = stream
        self._progress = progress
        self.failure: OSError | None = None
        self.counted = 0

    def write(self, data: Any) -> int:
        try:
            count = self._stream.write(data)
        except OSError as error:
            self.failure = error
            raise
        if count >= _SMALL:  # tensors, for the greater part
            self.counted += count
            self._progress.add(count)
        return count

    def flush(self) -> None:
        pass
