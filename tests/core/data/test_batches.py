"""Padding is never a target; random documents are determined by their seed."""

from __future__ import annotations

from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from forgather_core.data.batches import IGNORE_INDEX, padded_batches, random_documents

documents = st.lists(st.lists(st.integers(10, 99), max_size=23), max_size=20)


@given(documents, st.integers(1, 3), st.integers(2, 9))
@settings(max_examples=100)
def test_padding(texts: list[list[int]], rows: int, length: int) -> None:
    batches = list(padded_batches(texts, rows, length, pad_id=1))
    kept = [text[:length] for text in texts if len(text) > 1]
    assert len(batches) == len(kept) // rows
    for batch, at in zip(batches, range(0, len(kept), rows), strict=False):
        assert batch.tokens == sum(map(len, kept[at : at + rows]))
        for row, text in enumerate(kept[at : at + rows]):
            padding = length - len(text)
            assert batch.inputs["input_ids"][row].tolist() == text + [1] * padding
            assert batch.inputs["attention_mask"][row].tolist() == [1] * len(text) + [0] * padding
            assert batch.inputs["labels"][row].tolist() == text + [IGNORE_INDEX] * padding


def test_random_documents_are_determined_by_their_seed() -> None:
    def first(seed: int, *, packed: bool) -> list[list[int]]:
        return [list(d) for d in islice(random_documents(50, 8, seed=seed, packed=packed), 200)]

    assert first(1, packed=True) == first(1, packed=True)
    assert first(1, packed=True) != first(2, packed=True)
    assert {len(d) for d in first(1, packed=False)} == {8}
    assert {len(d) for d in first(1, packed=True)} == set(range(2, 9))
    assert {token for d in first(1, packed=False) for token in d} == set(range(50))
