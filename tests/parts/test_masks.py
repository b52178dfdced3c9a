"""Document starts, compared with a slow, direct computation from the positions."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forgather_core.parts.masks import document_starts

rows = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=1, max_size=3)


def positions_of(lengths: list[int], size: int) -> tuple[list[int], list[int]]:
    """Return positions of documents of these lengths, and the start of each token's document."""
    positions, starts = [], []
    for length in lengths:
        begin = len(positions)
        positions += range(length)
        starts += [begin] * length
    return positions[:size], starts[:size]


@given(rows, st.integers(0, 20))
@settings(max_examples=200)
def test_starts_of_packed_rows_read_at_once_or_in_two_parts(lengths: list[list[int]], cut: int) -> None:
    size = min(sum(row) for row in lengths)
    wanted = [positions_of(row, size) for row in lengths]
    positions = torch.tensor([p for p, _ in wanted])
    expected = torch.tensor([s for _, s in wanted])
    ones = torch.ones_like(positions, dtype=torch.bool)
    assert torch.equal(document_starts(positions, 0), expected)
    assert torch.equal(document_starts(positions, 0, ones), expected)
    cut = min(cut, size - 1)
    if cut:
        assert torch.equal(document_starts(positions[:, cut:], cut), expected[:, cut:])
        assert torch.equal(document_starts(positions[:, cut:], cut, ones), expected[:, cut:])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=100)
def test_padding_on_either_side_belongs_to_no_document(lengths: list[int], left: int, right: int) -> None:
    positions, starts = positions_of(lengths, 100)
    padded = torch.tensor([[0] * left + positions + [0] * right])
    real = torch.tensor([[False] * left + [True] * len(positions) + [False] * right])
    found = document_starts(padded, 0, real)[0, left : left + len(positions)].tolist()
    first = [start if start else 0 for start in starts]
    assert [max(f - left, 0) if f else 0 for f in found] == first
