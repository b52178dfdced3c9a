"""Memory over time: allocations and frees of a traced program, and the peak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from .collectives import Collective

WEIGHTS, BUFFERS, GRADIENTS, OPTIMIZER = "weights", "buffers", "gradients", "optimizer"
ACTIVATIONS, LOGITS, INPUTS, CACHE = "activations", "logits and loss", "inputs", "cache"
GATHERED, REDUCED = "gathered weights", "reduce buffers"  # of a sharded model


@dataclass(frozen=True)
class Peak:
    """The moment of peak memory.

    Args:
        bytes: Total bytes.
        parts: Bytes by kind; they add up to `bytes`.
        phase: Phase of the program: forward, backward, update, prefill or decode.
    """

    bytes: int
    parts: Mapping[str, int]
    phase: str


@dataclass(frozen=True)
class Timeline:
    """Allocations, frees and FLOPs of a traced program.

    Args:
        held: Bytes by kind that exist before and after the program.
        sizes: Bytes of each storage that the program allocates.
        kinds: Kind of each storage.
        events: Allocations (number of the storage, from 1) and frees (the negative number), in order.
        phases: Number of events before each phase, by name, in order.
        flops: FLOPs of matrix products by phase and operands: "weights", or "attention" (both operands are
            activations).
        collectives: The collective operations of a distributed model, in order.
    """

    held: Mapping[str, int]
    sizes: Sequence[int]
    kinds: Sequence[str]
    events: Sequence[int]
    phases: Mapping[str, int]
    flops: Mapping[tuple[str, str], int]
    collectives: Sequence[Collective] = ()

    @property
    def held_bytes(self) -> int:
        """Total bytes of `held`."""
        return sum(self.held.values())

    @cached_property
    def peak(self) -> Peak:
        """The moment of peak memory."""
        most, parts, moment = self.held_bytes, dict(self.held), 0
        for number, now in self._moments():
            if (total := sum(now.values())) > most:
                most, parts, moment = total, dict(now), number
        phase = [name for name, begins in self.phases.items() if begins < moment]
        return Peak(most, {kind: size for kind, size in parts.items() if size}, phase[-1] if phase else "")

    def _moments(self) -> Iterator[tuple[int, Mapping[str, int]]]:
        """Yield the number of events so far and the bytes by kind after them; the mapping is reused."""
        now = dict.fromkeys(self.kinds, 0) | dict(self.held)
        for number, event in enumerate(self.events, start=1):
            storage = abs(event) - 1
            now[self.kinds[storage]] += self.sizes[storage] if event > 0 else -self.sizes[storage]
            yield number, now

    def peak_of(self, kind: str) -> int:
        """Return the peak bytes of one kind."""
        return max((parts.get(kind, 0) for _, parts in self._moments()), default=self.held.get(kind, 0))

    def after(self, phase: str) -> Mapping[str, int]:
        """Return the bytes by kind at the end of a phase."""
        names = list(self.phases)
        following = names[names.index(phase) + 1 :]
        end = self.phases[following[0]] if following else len(self.events)
        return next((dict(parts) for number, parts in self._moments() if number == end), dict(self.held))

    def total_flops(self, phase: str, operands: str | None = None) -> int:
        """Return the FLOPs of a phase, for one kind of operands or for all."""
        return sum(n for (of, kind), n in self.flops.items() if of == phase and operands in (None, kind))


class BatchExtrapolation:
    """Peak memory for any batch size, extrapolated from two timelines: storages grow linearly with the batch size.

    Args:
        first: Timeline of `rows` rows.
        second: Timeline of `rows + row_difference` rows.
        rows: Batch size of `first`, at least 2: with a single row, torch may skip copies that larger batches need.
        row_difference: Difference between the batch sizes.

    Attributes:
        is_linear: Whether both timelines have the same events. If not, nothing can be extrapolated.
        least_rows: Smallest batch size for which `peak` is exact.
    """

    def __init__(self, first: Timeline, second: Timeline, rows: int, row_difference: int = 1) -> None:
        self.is_linear = len(first.sizes) == len(second.sizes) and list(first.events) == list(second.events)
        self.least_rows, self._held = rows, first.held_bytes
        if self.is_linear:
            events = torch.tensor(first.events, dtype=torch.int64)
            sizes = torch.stack([torch.tensor(t.sizes, dtype=torch.float64) for t in (first, second)])
            changes = sizes[:, events.abs() - 1] * events.sign()
            self._base, step = changes.cumsum(dim=1)
            self._step = (step - self._base) / row_difference

    def peak(self, rows: int) -> int:
        """Return the peak bytes for a batch size."""
        return self._held + max(0, int((self._base + (rows - self.least_rows) * self._step).max()))

    def max_rows(self, memory: int) -> int:
        """Return the largest batch size whose peak fits into `memory` bytes; 0 if a single row does not fit."""
        if not self.is_linear or self.peak(1) > memory:
            return 0
        low, high = 1, 2
        while self.peak(high) <= memory and high < 2**40:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak(middle) <= memory else (low, middle)
        return low
