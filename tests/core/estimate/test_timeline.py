"""A timeline's peak and parts, on events made by hand and on random ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forgather_core.estimate.timeline import ACTIVATIONS, GRADIENTS, WEIGHTS, Batches, Timeline


def timeline(sizes: list[int], events: list[int], kinds: list[str] | None = None, **phases: int) -> Timeline:
    return Timeline({WEIGHTS: 100}, sizes, kinds or [ACTIVATIONS] * len(sizes), events, phases, {})


def test_the_peak_is_where_most_is_there_by_kind_and_phase() -> None:
    kinds = [ACTIVATIONS, ACTIVATIONS, GRADIENTS]
    seen = timeline([10, 20, 5], [1, 2, -1, 3, -2, -3], kinds, forward=0, backward=2)
    assert (seen.peak.bytes, seen.peak.phase) == (130, "forward")
    assert seen.peak.parts == {WEIGHTS: 100, ACTIVATIONS: 30}
    assert seen.most_of(GRADIENTS) == 5
    assert seen.after("forward") == {WEIGHTS: 100, ACTIVATIONS: 30, GRADIENTS: 0}
    assert seen.after("backward") == {WEIGHTS: 100, ACTIVATIONS: 0, GRADIENTS: 0}


def test_where_nothing_is_made_the_peak_is_what_is_held() -> None:
    empty = timeline([], [], forward=0)
    assert (empty.peak.bytes, empty.peak.parts) == (100, {WEIGHTS: 100})
    assert empty.after("forward") == {WEIGHTS: 100}


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Storages that grow with the rows, and an order in which they come and go."""
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
def test_two_batches_tell_the_peak_of_every_other(program: tuple[list[int], list[int], list[int]], rows: int) -> None:
    fixed, growth, events = program

    def of(count: int) -> Timeline:
        return timeline([a + count * b for a, b in zip(fixed, growth, strict=True)], events)

    batches = Batches(of(2), of(3), 2)
    assert batches.follows
    assert batches.peak(rows) == of(rows).peak.bytes
    memory = of(rows).peak.bytes
    most = batches.most_rows(memory)
    assert most >= rows
    assert of(most).peak.bytes <= memory
    assert most >= 2**39 or of(most + 1).peak.bytes > memory
    assert batches.most_rows(of(1).peak.bytes - 1) == 0


def test_batches_that_do_not_run_alike_tell_nothing() -> None:
    batches = Batches(timeline([1], [1]), timeline([1, 2], [1, 2]), 2)
    assert not batches.follows
    assert batches.most_rows(10**9) == 0
