"""Memory over the course of a program: which storages came and went, and how much there was at most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

WEIGHTS, BUFFERS, GRADIENTS, OPTIMIZER = "weights", "buffers", "gradients", "optimizer"
ACTIVATIONS, LOGITS, INPUTS, CACHE = "activations", "logits and loss", "inputs", "cache"


@dataclass(frozen=True)
class Peak:
    """The moment at which most memory is in use.

    Args:
        bytes: In all.
        parts: By kind; they add up to `bytes`.
        phase: What the program was doing: forward, backward, update.
    """

    bytes: int
    parts: Mapping[str, int]
    phase: str


@dataclass(frozen=True)
class Timeline:
    """What a traced program did.

    Args:
        held: Bytes that were there before it began and are there after it, by kind.
        sizes: Bytes of each storage that it made.
        kinds: What each storage is for.
        events: Storages in the order in which they come (their number, from 1) and go (minus their number).
        phases: The number of events before each phase, by its name, in order.
        flops: Floating-point operations of matrix products, by phase and by what they multiply: "weights", or
            "attention" (activations with activations).
    """

    held: Mapping[str, int]
    sizes: Sequence[int]
    kinds: Sequence[str]
    events: Sequence[int]
    phases: Mapping[str, int]
    flops: Mapping[tuple[str, str], int]

    @property
    def least(self) -> int:
        """Bytes that are there all the time."""
        return sum(self.held.values())

    @cached_property
    def peak(self) -> Peak:
        """The moment of most memory."""
        most, parts, moment = self.least, dict(self.held), 0
        for number, now in self._moments():
            if (total := sum(now.values())) > most:
                most, parts, moment = total, dict(now), number
        phase = [name for name, begins in self.phases.items() if begins < moment]
        return Peak(most, {kind: size for kind, size in parts.items() if size}, phase[-1] if phase else "")

    def _moments(self) -> Iterator[tuple[int, Mapping[str, int]]]:
        """How many events there were, and what is there after them, by kind: the same map, changed each time."""
        now = dict.fromkeys(self.kinds, 0) | dict(self.held)
        for number, event in enumerate(self.events, start=1):
            storage = abs(event) - 1
            now[self.kinds[storage]] += self.sizes[storage] if event > 0 else -self.sizes[storage]
            yield number, now

    def most_of(self, kind: str) -> int:
        """Bytes of a kind where there are most of it."""
        return max((parts.get(kind, 0) for _, parts in self._moments()), default=self.held.get(kind, 0))

    def after(self, phase: str) -> Mapping[str, int]:
        """What is there when a phase ends, by kind."""
        names = list(self.phases)
        following = names[names.index(phase) + 1 :]
        end = self.phases[following[0]] if following else len(self.events)
        return next((dict(parts) for number, parts in self._moments() if number == end), dict(self.held))

    def total_flops(self, phase: str, what: str | None = None) -> int:
        """Operations of a phase, of both kinds or of one."""
        return sum(n for (of, kind), n in self.flops.items() if of == phase and what in (None, kind))


class Batches:
    """Peaks for any number of rows, from the timelines of two: each storage grows by the same bytes with every row.

    Args:
        one: The timeline of `rows` rows.
        other: The timeline of `apart` rows more.
        rows: At least 2: of one row, torch may pass by copies that any other number needs.
        apart: How many.
    """

    def __init__(self, one: Timeline, other: Timeline, rows: int, apart: int = 1) -> None:
        self.follows = len(one.sizes) == len(other.sizes) and list(one.events) == list(other.events)
        self.least_rows, self._held = rows, one.least
        if self.follows:
            events = torch.tensor(one.events, dtype=torch.int64)
            sizes = torch.stack([torch.tensor(t.sizes, dtype=torch.float64) for t in (one, other)])
            changes = sizes[:, events.abs() - 1] * events.sign()
            self._base, step = changes.cumsum(dim=1)
            self._step = (step - self._base) / apart

    def peak(self, rows: int) -> int:
        """Bytes at most for that many rows."""
        return self._held + max(0, int((self._base + (rows - self.least_rows) * self._step).max()))

    def most_rows(self, memory: int) -> int:
        """The largest number of rows that stays within so many bytes; 0 where not even one does."""
        if not self.follows or self.peak(1) > memory:
            return 0
        low, high = 1, 2
        while self.peak(high) <= memory and high < 2**40:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak(middle) <= memory else (low, middle)
        return low
