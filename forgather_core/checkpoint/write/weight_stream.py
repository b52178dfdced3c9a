"""A new weight file, hashed while it is written and durable once it is closed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from ...filesystem.disk import start_writeback, sync_file, write_fully
from ..formats.checksum import Checksum
from ..formats.embedded import with_checksum
from ..formats.finite import non_finite
from ..formats.stored import memory_of

_CHUNK = 8 * 2**20
_SMALL = 256 * 2**10
_QUEUED = 8  # chunks, enough to keep the disk busy and few enough for accurate progress
_WRITEBACK = 32 * 2**20  # bytes after which writeback to the disk starts


class WeightStream:
    """A new file that another thread writes while this thread computes its checksum.

    Args:
        path: The file, which must not exist.
        writer: Single-threaded executor, which writes in the order of the calls.
        scanner: Single-threaded executor, which checks for NaN and Inf.

    Attributes:
        position: Bytes appended so far.
        checksum: Checksum of all bytes, once the file is closed.
        non_finite: Names of the tensors that contain NaN or Inf, in the order in which they were checked.
    """

    def __init__(self, path: Path, writer: Executor, scanner: Executor) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._hash = Checksum()
        self._writer = writer
        self._scanner = scanner
        self._pending = bytearray()
        self._written = self._flushed = 0  # used by the writer thread
        self._writes: deque[Future[None]] = deque()
        self._scans: list[Future[None]] = []
        self._final_part: Callable[[], tuple[int, bytes]] | None = None
        self.position = 0
        self.checksum = ""
        self.non_finite: list[str] = []

    def leave_room(self, size: int) -> None:
        """Reserve `size` bytes at the start of the file, which `finish_with` provides."""
        self.position = self._written = self._flushed = os.lseek(self._descriptor, size, os.SEEK_SET)

    def finish_with(self, last: Callable[[], tuple[int, bytes]]) -> None:
        """Set the part that is written last, when `non_finite` is known.

        Args:
            last: Returns the offset of the part, from the end of the file if negative, and its bytes. They are hashed
                with a placeholder for the checksum and written with the checksum.
        """
        self._final_part = last

    def write(self, data: Any) -> int:
        """Append bytes. Small data is copied; large data must stay unchanged until `catch_up()` or the end.

        Raises:
            OSError: An earlier write failed.
        """
        memory = memoryview(data).cast("B")
        self.position += memory.nbytes
        if memory.nbytes < _SMALL:
            self._pending += memory
            if len(self._pending) >= _SMALL:
                self._drain()
        else:
            self._drain()
            for start in range(0, memory.nbytes, _CHUNK):
                self._put(memory[start : start + _CHUNK])
        return memory.nbytes

    def flush(self) -> None:
        """Do nothing; zipfile calls this method."""

    def scan(self, name: str, values: Tensor) -> None:
        """Check on another thread whether the values of a tensor are finite."""
        self._scans.append(self._scanner.submit(self._scan, name, values))

    def catch_up(self) -> None:
        """Wait until all data has been written and checked.

        Raises:
            OSError: A write failed.
        """
        self._drain()
        while self._writes:
            self._writes.popleft().result()
        while self._scans:
            self._scans.pop().result()

    def _drain(self) -> None:
        pending, self._pending = self._pending, bytearray()
        if pending:
            self._put(memoryview(pending))

    def _put(self, memory: memoryview) -> None:
        self._writes.append(self._writer.submit(self._write, memory))
        self._hash.update(memory)
        if len(self._writes) > _QUEUED:
            self._writes.popleft().result()

    def _write(self, memory: memoryview) -> None:
        write_fully(self._descriptor, memory)
        self._written += memory.nbytes
        if self._written - self._flushed >= _WRITEBACK:
            start_writeback(self._descriptor, self._flushed, self._written - self._flushed)
            self._flushed = self._written

    def _scan(self, name: str, values: Tensor) -> None:
        if non_finite(values):
            self.non_finite.append(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.catch_up()
                self._finish()
                sync_file(self._descriptor)
        finally:
            for future in (*self._writes, *self._scans):
                future.cancel()
            for future in (*self._writes, *self._scans):
                if not future.cancelled():
                    future.exception()  # no thread may use the descriptor or the tensors after this
            os.close(self._descriptor)
        self.checksum = self._hash.text()

    def _finish(self) -> None:
        if self._final_part is not None:
            at, text = self._final_part()
            self._hash.update(text)
            os.lseek(self._descriptor, at, os.SEEK_SET if at >= 0 else os.SEEK_END)
            write_fully(self._descriptor, memoryview(with_checksum(text, self._hash.text())))


def write_values(write: Callable[[memoryview], object], values: Tensor, on_written: Callable[[int], None]) -> None:
    """Write the bytes of a tensor in parts.

    Args:
        write: Called with each part. The tensor must outlive its use of the parts.
        values: A contiguous CPU tensor.
        on_written: Called with the size in bytes of each part.
    """
    memory = memory_of(values)
    for start in range(0, memory.nbytes, _CHUNK):
        part = memory[start : start + _CHUNK]
        write(part)
        on_written(part.nbytes)
