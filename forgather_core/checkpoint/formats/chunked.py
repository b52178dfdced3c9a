"""A tensor that is stored in several chunks, each in any file."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from .stored import RunsTensor, StoredTensor, memory_of


class ChunkedTensor(RunsTensor):
    """A tensor that is divided into chunks along any of its dimensions. Only the chunks that are needed are read.

    Args:
        shape: Shape of the tensor, of at least one dimension.
        dtype: Dtype of the tensor and of its chunks.
        chunks: The offset of each chunk in each dimension, and its values. They form a grid.

    Raises:
        ValueError: The chunks do not cover each element exactly once, or do not form a grid.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, chunks: Sequence[tuple[tuple[int, ...], StoredTensor]]
    ) -> None:
        super().__init__(shape, dtype)
        self._starts = [sorted({offsets[axis] for offsets, _ in chunks}) for axis in range(len(shape))]
        if not chunks or prod(map(len, self._starts)) != len(chunks) or any(starts[0] for starts in self._starts):
            raise ValueError("its chunks do not form a grid")
        cells: list[tuple[tuple[int, ...], StoredTensor] | None] = [None] * len(chunks)
        for offsets, chunk in chunks:
            number, box = self._cell(offsets)
            if cells[number] is not None or box != [(at, at + n) for at, n in zip(offsets, chunk.shape, strict=True)]:
                raise ValueError("its chunks do not form a grid")
            cells[number] = offsets, chunk
        self._chunks = [cell for cell in cells if cell is not None]
        # After this dimension no chunk ends before the tensor does, so the elements of a run are consecutive.
        self._axis = max((axis for axis, starts in enumerate(self._starts) if len(starts) > 1), default=0)
        self._strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]

    @property
    def streams(self) -> bool:
        """Return whether parts of all chunks can be read."""
        return all(chunk.streams for _, chunk in self._chunks)

    def check(self) -> None:
        """Check all chunks."""
        for _, chunk in self._chunks:
            chunk.check()

    def tensor(self) -> Tensor:
        """Return the values in newly allocated memory."""
        values = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        if self.streams:
            self.read(memory_of(values), 0)
            return values
        for offsets, chunk in self._chunks:
            box = tuple(slice(at, at + size) for at, size in zip(offsets, chunk.shape, strict=True))
            values[box].copy_(chunk.mapped())
        return values

    def runs(self, start: int, count: int) -> Iterator[tuple[StoredTensor, int, int]]:
        """Yield the chunk, the offset in it and the size of each run, for a range of bytes of the tensor."""
        while count:
            chunk, at, size = self._run(start)
            size = min(size, count)
            yield chunk, at, size
            start, count = start + size, count - size

    def _run(self, byte: int) -> tuple[StoredTensor, int, int]:
        """Return the chunk that holds a byte, the byte's offset in it, and the size of the run that begins there."""
        width, axis = self.dtype.itemsize, self._axis
        rest, within = divmod(byte, width)
        index = []
        for stride in self._strides:
            position, rest = divmod(rest, stride)
            index.append(position)
        number, box = self._cell(index)
        offsets, chunk = self._chunks[number]
        inner = byte // width % self._strides[axis]
        left = (box[axis][1] - index[axis]) * self._strides[axis] - inner
        element = 0
        for position, offset, size in zip(index, offsets, chunk.shape, strict=True):
            element = element * size + position - offset
        return chunk, element * width + within, left * width - within

    def _cell(self, index: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
        """Return the number of the cell of the grid that holds an element, and its start and end in each dimension."""
        number, box = 0, []
        for starts, size, position in zip(self._starts, self.shape, index, strict=True):
            at = bisect_right(starts, position) - 1
            number = number * len(starts) + at
            box.append((starts[at], starts[at + 1] if at + 1 < len(starts) else size))
        return number, box
