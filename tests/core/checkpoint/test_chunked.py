"""A tensor in chunks has the values of the whole tensor, and any part of it can be read."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forgather_core.checkpoint.formats.chunked import ChunkedTensor
from forgather_core.checkpoint.formats.part import PartTensor
from forgather_core.checkpoint.formats.stored import LiveTensor, memory_of
from tests.core.checkpoint.test_sharded_load import Streamed

Cuts = list[tuple[int, list[int]]]  # the size of each dimension, and the positions at which it is cut
CUTS: st.SearchStrategy[Cuts] = st.lists(
    st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n), max_size=3))),
    min_size=1,
    max_size=4,
)


def chunked(cuts: Cuts, dtype: torch.dtype = torch.float32, kind: Any = Streamed) -> tuple[torch.Tensor, ChunkedTensor]:
    shape = tuple(size for size, _ in cuts)
    values = torch.arange(torch.Size(shape).numel()).view(shape).to(dtype)
    spans = [list(pairwise(sorted({0, size, *at}))) for size, at in cuts]
    boxes = list(product(*spans))[::-1]
    chunks = [
        (tuple(a for a, _ in box), kind(values[tuple(slice(a, b) for a, b in box)].contiguous())) for box in boxes
    ]
    return values, ChunkedTensor(shape, dtype, chunks)


@given(cuts=CUTS, data=st.data())
def test_any_bytes_are_read(cuts: Cuts, data: st.DataObject) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        values, tensor = chunked(cuts, dtype)
        assert torch.equal(tensor.tensor(), values)
        start = data.draw(st.integers(0, tensor.nbytes))
        end = data.draw(st.integers(start, tensor.nbytes))
        found = bytearray(end - start)
        tensor.read(memoryview(found), start)
        assert found == bytes(memory_of(values)[start:end])


@given(cuts=CUTS, data=st.data())
def test_any_box_is_read(cuts: Cuts, data: st.DataObject) -> None:
    for kind in (Streamed, LiveTensor):
        values, tensor = chunked(cuts, kind=kind)
        box = []
        for size, _ in cuts:
            at = data.draw(st.integers(0, size - 1))
            box.append((at, data.draw(st.integers(1, size - at))))
        expected = values[tuple(slice(at, at + size) for at, size in box)]
        assert torch.equal(PartTensor(tensor, box).tensor(), expected)
        assert torch.equal(tensor.tensor(), values)


@pytest.mark.parametrize(
    "boxes",
    [
        [],
        [((0, 0), (2, 2))],
        [((0, 0), (4, 2)), ((0, 2), (2, 2))],
        [((0, 0), (4, 2)), ((0, 2), (3, 2))],
        [((0, 0), (4, 3)), ((0, 2), (4, 2))],
        [((0, 0), (2, 4)), ((0, 0), (4, 4))],
        [((1, 0), (3, 4))],
        [((0, 0), (2, 4)), ((2, 0), (3, 4))],
        [((0, 0), (2, 4)), ((9, 0), (2, 4))],
        [((0, 0), (2, 2)), ((0, 2), (4, 2)), ((2, 0), (2, 2))],  # exact, but no grid
    ],
)
def test_other_chunks_are_refused(boxes: list[tuple[tuple[int, int], tuple[int, int]]]) -> None:
    chunks = [(offsets, LiveTensor(torch.zeros(sizes))) for offsets, sizes in boxes]
    with pytest.raises(ValueError, match="do not form a grid"):
        ChunkedTensor((4, 4), torch.float32, chunks)
