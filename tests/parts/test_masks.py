"""Masks: document starts, compared with a direct computation; four-dimensional masks; masks with a static cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import StaticCache

from forgather_core.parts.caches import CACHE
from forgather_core.parts.documents import document_starts
from tests.plugins.tiny import TOLERANCE, difference, tiny, tokens

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


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("definition", ["llama", "single_head", "causal_lm", "deepone"])
@torch.no_grad()
def test_complete_masks_of_bool_and_of_floats_are_equivalent(definition: str, attention: str) -> None:
    model, ids = tiny(definition, attention=attention), tokens(2, 9)
    visible = torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()
    visible[1, :, 3:, 1] = False
    additive = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    found = model(ids, attention_mask=visible, use_cache=False).logits
    assert difference(found, model(ids, attention_mask=additive, use_cache=False).logits) <= TOLERANCE
    assert difference(found[0], model(ids[:1], use_cache=False).logits[0]) <= TOLERANCE
    assert difference(found[1], model(ids[1:], use_cache=False).logits[0]) > 0.01  # the hidden key has an effect


@pytest.mark.parametrize("definition", ["llama", "deepone", "mistral"])
@pytest.mark.parametrize("sizes", [(1,) * 12, (5, 1, 4, 2)])
@torch.no_grad()
def test_flex_attention_reads_a_static_cache(definition: str, sizes: tuple[int, ...]) -> None:
    model, ids = tiny(definition, attention="flex_attention"), tokens(2, 12)
    with torch.compiler.set_stance("force_eager"):
        whole = model(ids, use_cache=False).logits
        cache = StaticCache(model.config, max_cache_len=16)
        parts = [model(part, **{CACHE: cache}).logits for part in ids.split(list(sizes), 1)]
    assert difference(torch.cat(parts, 1), whole) <= TOLERANCE
