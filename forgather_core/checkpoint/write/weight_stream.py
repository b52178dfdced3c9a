"""A new weight file: its checksum is computed while it is written, and it is durable once it is closed."""

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
_QUEUED = 8  # chunks: enough to keep the disk busy, few enough for progress to be true
_WRITEBACK = 32 * 2**20  # bytes after which the disk begins to take what has been written


class WeightStream:
    """A new file that another thread writes while this one computes its checksum.

    Args:
        path: The file, which must not exist.
        writer: A single thread. It writes in the order of the calls.
        scanner: A single thread, which looks for values that are not finite.

    Attributes:
        position: Bytes appended so far.
        checksum: Of all bytes, once the file is closed.
        damaged: Names of the tensors that are not finite, in the order in which they were looked at.
    """

    def __init__(self, path: Path, writer: Executor, scanner: Executor) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._hash = Checksum()
        self._writer = writer
        self._scanner = scanner
        self._pending = bytearray()
        self._written = self._flushed = 0  # of the writing thread
        self._behind: deque[Future[None]] = deque()
        self._scans: list[Future[None]] = []
        self._last: Callable[[], tuple[int, bytes]] | None = None
        self.position = 0
        self.checksum = ""
        self.damaged: list[str] = []

    def leave_room(self, size: int) -> None:
        """Begin the file with `size` bytes, which `finish_with` provides."""
        self.position = self._written = self._flushed = os.lseek(self._descriptor, size, os.SEEK_SET)

    def finish_with(self, last: Callable[[], tuple[int, bytes]]) -> None:
        """Set what is written last, when `damaged` is known.

        Args:
            last: Returns where it goes, from the beginning of the file or, if negative, from its end, and the bytes.
                They are hashed with a placeholder for the checksum, and written with the checksum.
        """
        self._last = last

    def write(self, data: Any) -> int:
        """Append bytes. Few are copied; many must stay as they are until `catch_up()` or the end.

        Raises:
            OSError: The disk does not take what was appended before.
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
        """Do nothing: what writes archives calls it."""

    def scan(self, name: str, values: Tensor) -> None:
        """Look whether the values of a tensor are finite, on another thread."""
        self._scans.append(self._scanner.submit(self._scan, name, values))

    def catch_up(self) -> None:
        """Wait until everything has been written and looked at.

        Raises:
            OSError: The disk does not take it.
        """
        self._drain()
        while self._behind:
            self._behind.popleft().result()
        while self._scans:
            self._scans.pop().result()

    def _drain(self) -> None:
        pending, self._pending = self._pending, bytearray()
        if pending:
            self._put(memoryview(pending))

    def _put(self, memory: memoryview) -> None:
        self._behind.append(self._writer.submit(self._write, memory))
        self._hash.update(memory)
        if len(self._behind) > _QUEUED:
            self._behind.popleft().result()

    def _write(self, memory: memoryview) -> None:
        write_fully(self._descriptor, memory)
        self._written += memory.nbytes
        if self._written - self._flushed >= _WRITEBACK:
            start_writeback(self._descriptor, self._flushed, self._written - self._flushed)
            self._flushed = self._written

    def _scan(self, name: str, values: Tensor) -> None:
        if non_finite(values):
            self.damaged.append(name)

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
            for future in (*self._behind, *self._scans):
                future.cancel()
            for future in (*self._behind, *self._scans):
                if not future.cancelled():
                    future.exception()  # no thread may use the descriptor or the tensors after this
            os.close(self._descriptor)
        self.checksum = self._hash.text()

    def _finish(self) -> None:
        if self._last is not None:
            at, text = self._last()
            self._hash.update(text)
            os.lseek(self._descriptor, at, os.SEEK_SET if at >= 0 else os.SEEK_END)
            write_fully(self._descriptor, memoryview(with_checksum(text, self._hash.text())))


def write_values(put: Callable[[memoryview], object], values: Tensor, on_written: Callable[[int], None]) -> None:
    """Call `put` with the bytes of a contiguous tensor on the CPU, a part at a time, and `on_written` with their count.

    The tensor must live until `put` needs the parts no more.
    """
    memory = memory_of(values)
    for start in range(0, memory.nbytes, _CHUNK):
        part = memory[start : start + _CHUNK]
        put(part)
        on_written(part.nbytes)
