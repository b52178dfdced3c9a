"""Write the files of a checkpoint into an empty directory: sharded, durable, hashed while written."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from ...filesystem.printable import dtype_of
from ..formats.checksum import record
from ..formats.embedded import COMMENT_LIMIT, KEY, blank_checksum, comment_bytes, manifest_text
from ..formats.fp8 import DTYPES as FP8
from ..formats.fp8 import has_scale
from ..formats.layout import SAFETENSORS, Format, Index
from ..formats.safetensors_file import header_bytes, write_order
from ..formats.stored import StoredTensor
from ..formats.threads import serial_pool
from ..read.reader import ByteProgress
from .torch_writer import write_bin
from .weight_stream import WeightStream, write_values


@dataclass(frozen=True)
class Written:
    """The result of a write: names of the weight files, and their index."""

    files: tuple[str, ...]
    index: Index

    @property
    def nbytes(self) -> int:
        """Total size of the tensors in bytes."""
        return int(self.index.metadata["total_size"])


def write_shards(
    tensors: Mapping[str, StoredTensor],
    groups: Sequence[Sequence[str]],
    names: Sequence[str],
    directory: Path,
    format: Format,
    on_progress: ByteProgress | None = None,
) -> Written:
    """Write the weight files, each durable, without the index. A format's single file contains its manifest.

    Args:
        tensors: The tensors by name.
        groups: The names of the tensors of each file.
        names: The names of the files.
        directory: Target directory.
        format: The format.
        on_progress: Called with the bytes written and the total bytes.

    Raises:
        OSError: The disk is full, or fails.
        CheckpointError: The format does not support a dtype.
    """
    progress = _Progress(sum(tensor.nbytes for tensor in tensors.values()), on_progress)
    checksums: dict[str, str] = {}
    non_finite: list[str] = []
    with serial_pool(1, "write") as writer, serial_pool(1, "scan") as scanner:
        for file, group in zip(names, groups, strict=True):
            with WeightStream(directory / file, writer, scanner) as stream:
                part = {name: tensors[name] for name in group}
                manifest = None
                if file == format.single:
                    manifest = metadata_of(tensors, format, {file: blank_checksum()}, [])
                if format is SAFETENSORS:
                    _write_safetensors(stream, part, progress.add, manifest)
                else:
                    _write_bin(stream, part, progress.add, manifest)
            checksums[file] = stream.checksum
            non_finite += stream.non_finite
    weight_map = {name: file for file, group in zip(names, groups, strict=True) for name in group}
    return Written(tuple(names), Index(weight_map, metadata_of(tensors, format, checksums, non_finite)))


class _Progress:
    def __init__(self, total: int, on_progress: ByteProgress | None) -> None:
        self._done = 0
        self._total = total
        self._on_progress = on_progress

    def add(self, count: int) -> None:
        self._done += count
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)


def shard_groups(tensors: Mapping[str, StoredTensor], limit: int) -> list[list[str]]:
    """Return the tensor names of each file, in order.

    Args:
        tensors: The tensors by name.
        limit: Maximum size of a file in bytes. A file exceeds it only if it holds a single tensor.
    """
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
    """Return the name of the floating-point dtype with the most elements, the dtype that transformers records.

    FP8 weights with scales do not count, because they represent values of another dtype.
    """
    counts: Counter[torch.dtype] = Counter()
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point and not (tensor.dtype in FP8 and has_scale(name, tensors)):
            counts[tensor.dtype] += prod(tensor.shape)
    return dtype_of(counts.most_common(1)[0][0]) if counts else None


def metadata_of(
    tensors: Mapping[str, StoredTensor], format: Format, checksums: Mapping[str, str], non_finite: list[str]
) -> dict[str, Any]:
    """Return the metadata of an index.

    Args:
        tensors: All tensors by name.
        format: The format.
        checksums: The checksum of each file.
        non_finite: The names of the tensors with NaN or Inf.
    """
    dtype = main_dtype(tensors)
    metadata = {
        "total_size": sum(tensor.nbytes for tensor in tensors.values()),
        "total_parameters": sum(prod(tensor.shape) for tensor in tensors.values()),
        "format": format.suffix.removeprefix("."),
        **({"dtype": dtype} if dtype is not None else {}),
        "forgather_version": importlib.metadata.version("forgather"),
        "torch_version": torch.__version__,
        "non_finite": sorted(non_finite),
    }
    return record(metadata, checksums)


def _write_safetensors(
    stream: WeightStream,
    group: Mapping[str, StoredTensor],
    on_written: Callable[[int], None],
    manifest: Mapping[str, Any] | None,
) -> None:
    order = write_order({name: tensor.dtype for name, tensor in group.items()})

    def header() -> bytes:
        texts = {KEY: manifest_text(manifest, order, stream.non_finite)} if manifest is not None else {}
        return header_bytes(((name, group[name].dtype, group[name].shape) for name in order), texts)

    if manifest is None:
        stream.write(header())
    else:
        stream.leave_room(len(header()))
        stream.finish_with(lambda: (0, header()))
    for name in order:
        values = group[name].mapped()
        write_values(stream.write, values, on_written)
        stream.scan(name, values)
        if not group[name].is_resident:
            stream.catch_up()


def _write_bin(
    stream: WeightStream,
    group: Mapping[str, StoredTensor],
    on_written: Callable[[int], None],
    manifest: Mapping[str, Any] | None,
) -> None:
    write_bin(stream, group, on_written)
    if manifest is not None:
        names = list(group)
        stream.finish_with(
            lambda: comment_bytes(manifest_text(manifest, names, stream.non_finite, limit=COMMENT_LIMIT))
        )
