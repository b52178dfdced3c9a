"""Tensors of a checkpoint or of a model: shape and dtype are known, and values are read on demand."""

from __future__ import annotations

import ctypes
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...errors import CheckpointError, access_hint
from ...filesystem.disk import open_regular, read_bytes, read_into
from .open_files import OPEN_FILES, Mapping, identity, map_privately


def memory_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous CPU tensor without a copy. The tensor must outlive the memoryview."""
    size = tensor.numel() * tensor.element_size()
    return memoryview((ctypes.c_char * size).from_address(tensor.data_ptr())).cast("B")


class StoredTensor(ABC):
    """A tensor whose values are in a file, in memory, or computed on demand.

    Args:
        shape: Shape of the tensor.
        dtype: Dtype of the tensor.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shape = shape
        self.dtype = dtype

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_resident(self) -> bool:
        """Return whether `mapped()` allocates no memory."""
        return False

    @property
    def streams(self) -> bool:
        """Return whether `read()` of a part costs no more than that part."""
        return False

    def check(self) -> None:  # noqa: B027 - most tensors need no check
        """Check that the values can be read, before anything is changed.

        Raises:
            CheckpointError: They cannot be read; the message names the file.
        """

    @abstractmethod
    def tensor(self) -> Tensor:
        """Return the values: contiguous, on the CPU, in memory of exactly their size."""

    def mapped(self) -> Tensor:
        """Return the values, as pages of the file if possible. Writing to them does not change the file."""
        return self.tensor()

    def read(self, memory: memoryview, start: int) -> None:
        """Fill `memory` with the bytes of the values, starting at byte `start`."""
        values = self.mapped()  # it may be new, and must outlive its memory
        memory[:] = memory_of(values)[start : start + memory.nbytes]


class RunsTensor(StoredTensor):
    """A tensor whose bytes are runs of consecutive bytes of other tensors."""

    @abstractmethod
    def runs(self, start: int, count: int) -> Iterator[tuple[StoredTensor, int, int]]:
        """Yield the tensor, the offset in it and the size of each run, for a range of bytes of this tensor."""

    def read(self, memory: memoryview, start: int) -> None:
        """Fill `memory` with the bytes of the values, starting at byte `start`. Reads no other bytes."""
        if not self.streams:
            super().read(memory, start)
            return
        done = 0
        for source, at, size in self.runs(start, memory.nbytes):
            source.read(memory[done : done + size], at)
            done += size


class Readable(Protocol):
    """A file, or a range of bytes of one."""

    @property
    def size(self) -> int:
        """Size in bytes."""

    def read_bytes(self, count: int, offset: int) -> bytes:
        """Return `count` bytes, starting at byte `offset`.

        Raises:
            OSError: They cannot be read, or extend beyond the end.
        """


class WeightFile:
    """A weight file. It stays readable after its directory is removed, unless very many files are open.

    Args:
        path: Path of the file.
        descriptor: Descriptor of the file, owned by this object. If many files are open, the least recently used
            descriptor is closed, and the file is reopened when it is needed.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        found = os.fstat(descriptor)
        self.size = found.st_size
        self._identity = identity(found)
        self._map: Mapping | None = None
        OPEN_FILES.add(self, descriptor)

    @property
    def descriptor(self) -> int:
        """A descriptor for reading. It stays open until many other files have been used.

        Raises:
            CheckpointError: The file had to be reopened, and is missing or has been replaced.
        """
        descriptor = OPEN_FILES.get(self)
        if descriptor is None:
            try:
                descriptor = open_regular(self.path)
            except OSError as error:
                problem = f"cannot be read any more: {error.strerror}"
                raise CheckpointError(problem, file=self.path, hint=access_hint(error)) from None
            if identity(os.fstat(descriptor)) != self._identity:
                os.close(descriptor)
                problem = "was replaced while it was being read"
                raise CheckpointError(problem, file=self.path, hint="load it again")
            return OPEN_FILES.add(self, descriptor)
        return descriptor

    def read(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` with the bytes of the file, starting at byte `offset`.

        Raises:
            CheckpointError: The disk fails, or the file has been truncated since it was opened.
        """
        try:
            with OPEN_FILES.pinned(self):
                read_into(self.descriptor, memory, offset)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
            raise CheckpointError(problem, file=self.path, hint=access_hint(error)) from None

    def read_bytes(self, count: int, offset: int) -> bytes:
        """Return `count` bytes of the file, starting at byte `offset`.

        Raises:
            OSError: The disk fails, or the file ends too early.
        """
        with OPEN_FILES.pinned(self):
            return read_bytes(self.descriptor, count, offset)

    def map(self) -> Mapping:
        """Return the content as memory that is private to this process. Tensors that use it keep it alive.

        Raises:
            CheckpointError: The file cannot be mapped, for example because it has been truncated.
        """
        if self._map is None:
            try:
                with OPEN_FILES.pinned(self):
                    descriptor = self.descriptor
                    self._map = map_privately(descriptor, self.size)
            except (OSError, ValueError) as error:  # the file has been truncated since
                problem = f"cannot be mapped: {error}"
                raise CheckpointError(problem, file=self.path, hint="load it again, or without assign") from None
        return self._map

    def close(self) -> None:
        """Close the file. Tensors that use its map stay valid."""
        self._map = None
        OPEN_FILES.close(self)


class FileTensor(StoredTensor):
    """A tensor whose bytes are in a file, starting at byte `offset`."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, file: WeightFile, offset: int) -> None:
        super().__init__(shape, dtype)
        self.file = file
        self.offset = offset

    @property
    def is_resident(self) -> bool:
        """Return whether the values can be mapped, which requires that they are aligned in the file."""
        return self.offset % self.dtype.itemsize == 0

    @property
    def streams(self) -> bool:
        """Return True: any part of a file can be read."""
        return True

    def tensor(self) -> Tensor:
        """Return the values in newly allocated memory."""
        values = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        self.read(memory_of(values), 0)
        return values

    def mapped(self) -> Tensor:
        """Return the values as pages of the file, read on first access."""
        if self.nbytes == 0 or self.offset % self.dtype.itemsize:  # nothing to map, or misaligned
            return self.tensor()
        flat = torch.frombuffer(self.file.map(), dtype=self.dtype, count=prod(self.shape), offset=self.offset)
        return flat.view(self.shape)

    def read(self, memory: memoryview, start: int) -> None:
        """Fill `memory` from the file, starting at byte `start` of the tensor."""
        self.file.read(memory, self.offset + start)


class LiveTensor(StoredTensor):
    """A tensor in memory, on any device, in any layout."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(tuple(values.shape), values.dtype)
        self.values = values.detach()

    @property
    def is_resident(self) -> bool:
        """Return whether the tensor can be used as it is, without a copy."""
        plain = self.values.device.type == "cpu" and self.values.is_contiguous()
        return plain and not self.values.is_conj() and not self.values.is_neg()

    def tensor(self) -> Tensor:
        """Return the values on the CPU, contiguous; copied only if necessary, or if part of a larger storage."""
        values = self.values.resolve_conj().resolve_neg().to("cpu").contiguous()
        return values.clone() if values.untyped_storage().nbytes() != self.nbytes else values

    def mapped(self) -> Tensor:
        """Return the values on the CPU, contiguous; possibly part of a larger storage."""
        return self.values.resolve_conj().resolve_neg().to("cpu").contiguous()


class CastTensor(StoredTensor):
    """A stored tensor converted to another dtype."""

    def __init__(self, source: StoredTensor, dtype: torch.dtype) -> None:
        super().__init__(source.shape, dtype)
        self.source = source

    def check(self) -> None:
        """Check the source tensor."""
        self.source.check()

    def tensor(self) -> Tensor:
        """Return the converted values."""
        return self.source.mapped().to(self.dtype)
