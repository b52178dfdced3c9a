"""What fits on a device: rows, tokens in a row, tokens in a cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from .devices import Device
from .memory import Memory
from .timeline import WEIGHTS, Batches

RESERVE = 2**30  # bytes for the driver's context, what kernels allocate for themselves, and gaps between allocations


class Fits:
    """Answers for one model and one way to run it; a figure that several devices ask for is traced once.

    Args:
        memory: What it takes.
        rows: Of the batch, where lengths are asked for.
        length: Tokens in a row, where rows are asked for.
        limit: The longest text that the model is made for: no answer is longer.
        cache: Kind of cache.
    """

    def __init__(self, memory: Memory, *, rows: int, length: int, limit: int, cache: str) -> None:
        self._memory, self._rows, self._length, self._cache = memory, rows, length, cache
        self._lengths = [2**n for n in range(4, limit.bit_length()) if 2**n < limit] + [limit]

    def step_fits(self, device: Device) -> bool:
        """Whether the step itself does."""
        return self._training_fits(self._length, device)

    @cached_property
    def _batches(self) -> Batches:
        return self._memory.batches(self._length)

    def most_rows(self, device: Device) -> int | None:
        """The largest batch of the asked length; None where it cannot be told."""
        if not self._batches.follows:
            return None
        usable = _usable(device)
        most = self._batches.most_rows(usable)
        # Of fewer rows than those, the parts of a loss may be larger than these two batches tell: such a one is traced.
        while 0 < most < self._batches.least_rows and not self._rows_fit(most, usable):
            most -= 1
        return most

    def _rows_fit(self, rows: int, usable: int) -> bool:
        return self._memory.training(rows, self._length).peak.bytes <= usable

    def longest(self, device: Device) -> int:
        """The longest row of training, a power of two or the model's limit, in a batch of the asked size."""
        return self._search(lambda length: self._training_fits(length, device))

    def _training_fits(self, length: int, device: Device) -> bool:
        asked = self._memory.training(self._rows, self._length)
        if asked.least > _usable(device):
            return False  # weights and states alone are too much, whatever the length
        return self._memory.training(self._rows, length).peak.bytes <= _usable(device)

    def longest_generation(self, device: Device) -> int:
        """The longest cache while generating, likewise."""
        if self._memory.training(self._rows, self._length).held[WEIGHTS] > _usable(device):
            return 0
        return self._search(
            lambda length: self._memory.generation(self._rows, length, self._cache).peak.bytes <= _usable(device)
        )

    def _search(self, fits: Callable[[int], bool]) -> int:
        low, high = -1, len(self._lengths)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(self._lengths[middle]) else (low, middle)
        return self._lengths[low] if low >= 0 else 0


def _usable(device: Device) -> int:
    return max(0, device.memory - RESERVE)
