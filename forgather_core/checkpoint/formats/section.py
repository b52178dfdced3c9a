"""A range of bytes of a weight file that is read like a file."""

from __future__ import annotations

import errno

from .stored import WeightFile

_ENDS = 4_096  # bytes that are read at once: the pickle and the directory of most archives of one tensor


class Section:
    """A range of bytes of a weight file. Its first and last bytes are read once, and kept.

    Args:
        file: The file.
        start: Start of the range in bytes.
        size: Size of the range in bytes.

    Raises:
        OSError: The file cannot be read, or ends too early.
    """

    def __init__(self, file: WeightFile, start: int, size: int) -> None:
        self.size = size
        self._file = file
        self._start = start
        self._head = file.read_bytes(min(size, _ENDS), start)
        self._tail_start = size - len(self._head)
        self._tail = file.read_bytes(len(self._head), start + self._tail_start) if self._tail_start else self._head

    def read_bytes(self, count: int, offset: int) -> bytes:
        """Return `count` bytes, starting at byte `offset` of the range.

        Raises:
            OSError: They cannot be read, or extend beyond the range.
        """
        end = offset + count
        if not 0 <= offset <= end <= self.size:
            raise OSError(errno.EIO, "it ends too early")
        if end <= len(self._head):
            return self._head[offset:end]
        if offset >= self._tail_start:
            return self._tail[offset - self._tail_start : end - self._tail_start]
        return self._file.read_bytes(count, self._start + offset)
