"""Packing loses no token and lets no document predict another; padding is never a target."""

from __future__ import annotations

from itertools import islice

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forgather_core.data.batches import IGNORE, packed_batches, padded_batches, random_documents
from tests.plugins.tiny import tiny

documents = st.lists(st.lists(st.integers(10, 99), max_size=23), max_size=20)


@given(documents, st.integers(1, 3), st.integers(2, 9))
@settings(max_examples=150, deadline=None)
def test_packing(texts: list[list[int]], rows: int, length: int) -> None:
    batches = list(packed_batches(texts, rows, length))
    kept = [text for text in texts if len(text) > 1]
    flow = [token for text in kept for token in text]
    ids = [i for batch in batches for i in batch["input_ids"].flatten().tolist()]
    assert ids == flow[: len(flow) // (rows * length) * rows * length]  # every token, in order, but the last few
    expected, seen = [], 0
    for text in kept:  # positions restart with each document and each row
        for place in range(len(text)):
            expected.append(0 if place == 0 or seen % length == 0 else expected[-1] + 1)
            seen += 1
    positions = [i for batch in batches for i in batch["position_ids"].flatten().tolist()]
    assert positions == expected[: len(positions)]
    for batch in batches:
        assert batch["input_ids"].shape == (rows, length)
        first = batch["position_ids"] == 0
        assert torch.equal(batch["labels"], batch["input_ids"].masked_fill(first, IGNORE))


@given(documents, st.integers(1, 3), st.integers(2, 9))
@settings(max_examples=150, deadline=None)
def test_padding(texts: list[list[int]], rows: int, length: int) -> None:
    batches = list(padded_batches(texts, rows, length, pad_id=1))
    kept = [text[:length] for text in texts if len(text) > 1]
    assert len(batches) == len(kept) // rows
    for batch, at in zip(batches, range(0, len(kept), rows), strict=False):
        for row, text in enumerate(kept[at : at + rows]):
            rest = length - len(text)
            assert batch["input_ids"][row].tolist() == text + [1] * rest
            assert batch["attention_mask"][row].tolist() == [1] * len(text) + [0] * rest
            assert batch["labels"][row].tolist() == text + [IGNORE] * rest


def test_random_documents_follow_from_their_seed() -> None:
    def first(seed: int, *, packed: bool) -> list[list[int]]:
        return [list(d) for d in islice(random_documents(50, 8, seed=seed, packed=packed), 200)]

    assert first(1, packed=True) == first(1, packed=True)
    assert first(1, packed=True) != first(2, packed=True)
    assert {len(d) for d in first(1, packed=False)} == {8}
    assert {len(d) for d in first(1, packed=True)} == set(range(2, 9))
    assert {token for d in first(1, packed=False) for token in d} == set(range(50))


def test_a_packed_batch_has_the_loss_of_its_documents_one_by_one() -> None:
    model = tiny("llama", vocab_size=97)
    texts = [torch.randint(3, 97, (n,)).tolist() for n in (7, 12, 5)]
    (batch,) = packed_batches(texts, 1, 24)
    packed = model(**batch).loss
    total, targets = 0.0, 0
    for text in texts:
        ids = torch.tensor([text])
        total += model(ids, labels=ids).loss.item() * (len(text) - 1)
        targets += len(text) - 1
    assert abs(packed.item() - total / targets) <= 1e-5
