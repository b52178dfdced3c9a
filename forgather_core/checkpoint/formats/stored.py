"""One tensor of a checkpoint or of a model, known by shape and dtype; its values are read when asked for."""

from __future__ import annotations

import ctypes
import os
from abc import ABC, abstractmethod
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...filesystem.disk import open_regular, read_into
from .open_files import OPEN_FILES, Mapping, identity, map_privately


def memory_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, not copied. The tensor must outlive them."""
    size = tensor.numel() * tensor.element_size()
    return memoryview((ctypes.c_char * size).from_address(tensor.data_ptr())).cast("B")


class StoredTensor(ABC):
    """A tensor that is somewhere.

    Args:
        shape: Its shape.
        dtype: Its dtype.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shape = shape
        self.dtype = dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_resident(self) -> bool:
        """Whether `mapped()` takes no memory of its own."""
        return False

    @property
    def streams(self) -> bool:
        """Whether `read()` of a part costs no more than that part."""
        return False

    def check(self) -> None:  # noqa: B027 - most can
        """Check, before anything is changed, that the values can be read.

        Raises:
            CheckpointError: They cannot; the text names the file.
        """

    @abstractmethod
    def tensor(self) -> Tensor:
        """The values: contiguous, on the CPU, owning no more memory than they take."""

    def mapped(self) -> Tensor:
        """The values, of the file's own pages where that can be. Writing to them changes no file."""
        return self.tensor()

    def read(self, memory: memoryview, start: int) -> None:
        """Fill `memory` with the bytes of the values from byte `start` on."""
        memory[:] = memory_of(self.mapped())[start : start + memory.nbytes]


class WeightFile:
    """A weight file. It can be read when its directory is gone, unless it is one of very many.

    Args:
        path: Where it lies.
        descriptor: Its descriptor, which it owns. Once many files are open, the one that was used least recently is
            closed, and opened again when it is needed.
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
            CheckpointError: The file had to be opened again, and is gone or has been replaced.
        """
        descriptor = OPEN_FILES.get(self)
        if descriptor is None:
            try:
                descriptor = open_regular(self.path)
            except OSError as error:
                raise CheckpointError(f"{self.path} cannot be read any more: {error.strerror}") from None
            if identity(os.fstat(descriptor)) != self._identity:
                os.close(descriptor)
                raise CheckpointError(f"{self.path} has been replaced while it was read: start again")
            return OPEN_FILES.add(self, descriptor)
        return descriptor

    def read(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` from `offset` on.

        Raises:
            CheckpointError: The disk fails, or the file has been truncated.
        """
        try:
            with OPEN_FILES.pinned(self):
                read_into(self.descriptor, memory, offset)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror}") from None

    def map(self) -> Mapping:
        """Its content as memory that is private to this process. Tensors made of it keep it alive.

        Raises:
            CheckpointError: The file has been truncated.
        """
        if self._map is None:
            try:
                with OPEN_FILES.pinned(self):
                    descriptor = self.descriptor
                    self._map = map_privately(descriptor, self.size)
            except (OSError, ValueError) as error:  # the file has been truncated since
                raise CheckpointError(f"{self.path} cannot be mapped: {error}") from None
        return self._map

    def close(self) -> None:
        """Close it. Tensors that were made of its map stay valid."""
        self._map = None
        OPEN_FILES.close(self)


class FileTensor(StoredTensor):
    """A tensor whose bytes lie in a file from `offset` on."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, file: WeightFile, offset: int) -> None:
        super().__init__(shape, dtype)
        self.file = file
        self.offset = offset

    @property
    def is_resident(self) -> bool:
        """Pages of a file are the system's to keep or to drop."""
        return self.offset % self.dtype.itemsize == 0

    @property
    def streams(self) -> bool:
        """Any part of a file can be read."""
        return True

    def tensor(self) -> Tensor:
        """The values in memory of their own."""
        values = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        self.read(memory_of(values), 0)
        return values

    def mapped(self) -> Tensor:
        """The values as pages of the file, read when they are first touched."""
        if self.nbytes == 0 or self.offset % self.dtype.itemsize:  # nothing to map; or a map would be misaligned
            return self.tensor()
        flat = torch.frombuffer(self.file.map(), dtype=self.dtype, count=prod(self.shape), offset=self.offset)
        return flat.view(self.shape)

    def read(self, memory: memoryview, start: int) -> None:
        """Fill `memory` from the file."""
        self.file.read(memory, self.offset + start)


class LiveTensor(StoredTensor):
    """A tensor that is in memory, on any device and in any layout."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(tuple(values.shape), values.dtype)
        self.values = values.detach()

    @property
    def is_resident(self) -> bool:
        """Whether it can be handed on as it is."""
        plain = self.values.device.type == "cpu" and self.values.is_contiguous()
        return plain and not self.values.is_conj() and not self.values.is_neg()

    def tensor(self) -> Tensor:
        """On the CPU, contiguous; copied only if it is not so already, or is part of something larger."""
        values = self.values.resolve_conj().resolve_neg().to("cpu").contiguous()
        return values.clone() if values.untyped_storage().nbytes() != self.nbytes else values

    def mapped(self) -> Tensor:
        """On the CPU, contiguous; perhaps part of something larger."""
        return self.values.resolve_conj().resolve_neg().to("cpu").contiguous()


class CastTensor(StoredTensor):
    """Another tensor in another dtype."""

    def __init__(self, source: StoredTensor, dtype: torch.dtype) -> None:
        super().__init__(source.shape, dtype)
        self.source = source

    def check(self) -> None:
        """Check the other tensor."""
        self.source.check()

    def tensor(self) -> Tensor:
        """Converted."""
        return self.source.mapped().to(self.dtype)
