"""Write the files of a checkpoint into an empty directory: sharded, durable, hashed as they are written."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from ..files import sync_file, write_fully
from .copying import non_finite
from .layout import SAFETENSORS, Format, Index
from .reader import Progress
from .safetensors_file import header_bytes, write_order
from .stored import StoredTensor, memory_of

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
    """Write the weight files, each durable, without the index.

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
    total, done = sum(tensor.nbytes for tensor in tensors.values()), 0
    digests, damaged = {}, []

    def written(name: str, values: torch.Tensor) -> None:
        nonlocal done
        done += tensors[name].nbytes
        if non_finite(values):
            damaged.append(name)
        if on_progress is not None:
            on_progress(done, total)

    write = _write_safetensors if format is SAFETENSORS else _write_bin
    for file, group in zip(names, groups, strict=True):
        with HashedFile(directory / file) as stream:
            write(stream, {name: tensors[name] for name in group}, written)
        digests[file] = stream.digest
    weight_map = {name: file for file, group in zip(names, groups, strict=True) for name in group}
    return Written(tuple(names), Index(weight_map, _metadata(tensors, format, digests, damaged)))


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
    """The floating-point dtype that most numbers have, by name: what transformers takes for that of the model."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        if tensor.dtype.is_floating_point:
            counts[tensor.dtype] += prod(tensor.shape)
    return str(counts.most_common(1)[0][0]).removeprefix("torch.") if counts else None


def _metadata(
    tensors: Mapping[str, StoredTensor], format: Format, digests: Mapping[str, str], damaged: list[str]
) -> dict[str, Any]:
    dtype = main_dtype(tensors)
    return {
        "total_size": sum(tensor.nbytes for tensor in tensors.values()),
        "total_parameters": sum(prod(tensor.shape) for tensor in tensors.values()),
        "format": format.suffix.removeprefix("."),
        **({"dtype": dtype} if dtype is not None else {}),
        "forgather_version": importlib.metadata.version("forgather"),
        "torch_version": torch.__version__,
        "non_finite": sorted(damaged),
        "sha256": dict(digests),
    }


class HashedFile:
    """A new file that is hashed as it is written, on another thread, and durable when it is closed without an error."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._hash = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="forgather-sha256")
        self._pending = bytearray()
        self.digest = ""

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
        return memory.nbytes

    def flush(self) -> None:
        """Small pieces are held back until there are enough of them, or the file is closed."""

    def _drain(self) -> None:
        pending, self._pending = self._pending, bytearray()
        self._put(memoryview(pending))

    def _put(self, memory: memoryview) -> None:
        for start in range(0, memory.nbytes, _CHUNK):
            chunk = memory[start : start + _CHUNK]
            hashed = self._hasher.submit(self._hash.update, chunk)
            try:
                write_fully(self._descriptor, chunk)
            finally:
                hashed.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._drain()
                sync_file(self._descriptor)
                self.digest = self._hash.hexdigest()
        finally:
            self._hasher.shutdown()
            os.close(self._descriptor)


def _write_safetensors(
    stream: HashedFile, group: Mapping[str, StoredTensor], written: Callable[[str, torch.Tensor], None]
) -> None:
    order = write_order({name: tensor.dtype for name, tensor in group.items()})
    stream.write(header_bytes((name, group[name].dtype, group[name].shape) for name in order))
    for name in order:
        values = group[name].mapped()
        if values.numel():
            stream.write(memory_of(values))
        written(name, values)


def _write_bin(
    stream: HashedFile, group: Mapping[str, StoredTensor], written: Callable[[str, torch.Tensor], None]
) -> None:
    state = {name: tensor.tensor() for name, tensor in group.items()}
    failure: list[OSError] = []
    try:
        torch.save(state, _Reporting(stream, failure))  # type: ignore[arg-type]
    except RuntimeError as error:  # torch's writer hides what the disk said
        raise (failure[0] if failure else error) from None
    for name, values in state.items():
        written(name, values)


class _Reporting:
    """A file for torch.save() that keeps the error of the disk: torch tells only that there was one."""

    def __init__(self, stream: HashedFile, failure: list[OSError]) -> None:
        self._stream = stream
        self._failure = failure

    def write(self, data: Any) -> int:
        try:
            return self._stream.write(data)
        except OSError as error:
            self._failure.append(error)
            raise

    def flush(self) -> None:
        pass
