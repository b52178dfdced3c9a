"""Peak and parts of a timeline, on hand-written and on random events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forgather_core.estimate.timeline import ACTIVATIONS, GRADIENTS, WEIGHTS, BatchExtrapolation, Timeline


def timeline(sizes: list[int], events: list[int], kinds: list[str] | None = None, **phases: int) -> Timeline:
    return Timeline({WEIGHTS: 100}, sizes, kinds or [ACTIVATIONS] * len(sizes), events, phases, {})


def test_finds_the_peak_with_its_kinds_and_phase() -> None:
    kinds = [ACTIVATIONS, ACTIVATIONS, GRADIENTS]
    seen = timeline([10, 20, 5], [1, 2, -1, 3, -2, -3], kinds, forward=0, backward=2)
    assert (seen.peak.bytes, seen.peak.phase) == (130, "forward")
    assert seen.peak.parts == {WEIGHTS: 100, ACTIVATIONS: 30}
    assert seen.peak_of(GRADIENTS) == 5
    assert seen.after("forward") == {WEIGHTS: 100, ACTIVATIONS: 30, GRADIENTS: 0}
    assert seen.after("backward") == {WEIGHTS: 100, ACTIVATIONS: 0, GRADIENTS: 0}


def test_without_allocations_the_peak_is_the_held_memory() -> None:
    empty = timeline([], [], forward=0)
    assert (empty.peak.bytes, empty.peak.parts) == (100, {WEIGHTS: 100})
    assert empty.after("forward") == {WEIGHTS: 100}


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Draw storages that grow with the batch size, and an order of allocations and frees."""
    count = draw(st.integers(1, 12))
    fixed = draw(st.lists(st.integers(0, 1000), min_size=count, max_size=count))
    growth = draw(st.lists(st.integers(0, 1000), min_size=count, max_size=count))
    events: list[int] = []
    for number in range(1, count + 1):
        events.append(number)
        for old in range(1, number + 1):
            if -old not in events and draw(st.booleans()):
                events.append(-old)
    return fixed, growth, events


@given(programs(), st.integers(1, 50))
def test_two_batch_sizes_give_the_peak_of_every_other(
    program: tuple[list[int], list[int], list[int]], rows: int
) -> None:
    fixed, growth, events = program

    def of(count: int) -> Timeline:
        return timeline([a + count * b for a, b in zip(fixed, growth, strict=True)], events)

    batches = BatchExtrapolation(of(2), of(3), 2)
    assert batches.is_linear
    assert batches.peak(rows) == of(rows).peak.bytes
    memory = of(rows).peak.bytes
    most = batches.max_rows(memory)
    assert most >= rows
    assert of(most).peak.bytes <= memory
    assert most >= 2**39 or of(most + 1).peak.bytes > memory
    assert batches.max_rows(of(1).peak.bytes - 1) == 0


def test_different_events_cannot_be_extrapolated() -> None:
    batches = BatchExtrapolation(timeline([1], [1]), timeline([1, 2], [1, 2]), 2)
    assert not batches.is_linear
    assert batches.max_rows(10**9) == 0
