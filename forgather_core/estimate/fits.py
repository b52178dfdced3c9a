"""Find the largest batch, sequence length and cache that fit on a device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from .devices import Device
from .memory import Memory
from .timeline import WEIGHTS, BatchExtrapolation

RESERVE = 2**30  # bytes for the driver, kernel workspaces and fragmentation


class Fits:
    """Find the limits of one model and training step on devices; traces are shared between devices.

    Args:
        memory: Memory of the model.
        rows: Batch size at which lengths are tested.
        length: Sequence length at which batch sizes are tested.
        limit: Maximum sequence length of the model.
        cache: Type of KV cache: dynamic or static.
    """

    def __init__(self, memory: Memory, *, rows: int, length: int, limit: int, cache: str) -> None:
        self._memory, self._rows, self._length, self._cache = memory, rows, length, cache
        self._lengths = [2**n for n in range(4, limit.bit_length()) if 2**n < limit] + [limit]

    def step_fits(self, device: Device) -> bool:
        """Return whether the training step fits."""
        return self._training_fits(self._length, device)

    @cached_property
    def _batches(self) -> BatchExtrapolation:
        return self._memory.batches(self._length)

    def max_rows(self, device: Device) -> int | None:
        """Return the largest batch size at the given sequence length; None if it cannot be determined."""
        if not self._batches.is_linear:
            return None
        usable = _usable(device)
        most = self._batches.max_rows(usable)
        # Below the traced batch sizes the chunks of a loss may be larger than extrapolated: trace these directly.
        while 0 < most < self._batches.least_rows and not self._rows_fit(most, usable):
            most -= 1
        return most

    def _rows_fit(self, rows: int, usable: int) -> bool:
        return self._memory.training(rows, self._length).peak.bytes <= usable

    def longest(self, device: Device) -> int:
        """Return the longest sequence for training at the given batch size: a power of two, or the model's limit."""
        return self._search(lambda length: self._training_fits(length, device))

    def _training_fits(self, length: int, device: Device) -> bool:
        step = self._memory.training(self._rows, self._length)
        if step.held_bytes > _usable(device):
            return False  # weights and optimizer state alone are too large for any length
        return self._memory.training(self._rows, length).peak.bytes <= _usable(device)

    def longest_generation(self, device: Device) -> int:
        """Return the longest cache for generation at the given batch size: a power of two, or the model's limit."""
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
