"""The part of a stored tensor that one process of a device mesh holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from .stored import RunsTensor, StoredTensor, memory_of


class PartTensor(RunsTensor):
    """A box within a stored tensor, of which only the bytes of the box are read.

    Args:
        source: The stored tensor, of at least one dimension.
        box: Offset and size in each dimension.
    """

    def __init__(self, source: StoredTensor, box: Sequence[tuple[int, int]]) -> None:
        super().__init__(tuple(size for _, size in box), source.dtype)
        self.source = source
        self._box = tuple(box)
        # After this dimension the box spans the whole source, so its elements are consecutive within a run.
        whole = [i for i, (_, size) in enumerate(box) if size != source.shape[i]]
        self._first = whole[-1] if whole else 0

    @property
    def streams(self) -> bool:
        """Return whether parts of the source can be read."""
        return self.source.streams

    def check(self) -> None:
        """Check the source tensor."""
        self.source.check()

    def tensor(self) -> Tensor:
        """Return the values in newly allocated memory."""
        if not self.streams:
            return self.source.mapped()[tuple(slice(at, at + size) for at, size in self._box)].clone()
        values = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        self.read(memory_of(values), 0)
        return values

    def runs(self, start: int, count: int) -> Iterator[tuple[StoredTensor, int, int]]:
        """Yield the source, the offset in it and the size of each run, for a range of bytes of the box."""
        width, outer = self.dtype.itemsize, self._first
        run = prod(self.shape[outer:]) * width
        strides = [prod(self.source.shape[i + 1 :]) * width for i in range(len(self.shape))]
        inner = self._box[outer][0] * strides[outer]
        while count:
            number, within = divmod(start, run)
            at = inner + within
            for axis in reversed(range(outer)):
                number, index = divmod(number, self.shape[axis])
                at += (self._box[axis][0] + index) * strides[axis]
            size = min(run - within, count)
            yield self.source, at, size
            start, count = start + size, count - size
