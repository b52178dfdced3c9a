"""Packing loses no token, overfills no row, and no document predicts another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain, count, islice
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forgather_core.data.batches import IGNORE_INDEX, WINDOW_BATCHES, Batch, packed_batches
from forgather_core.data.packing import Strategy, best_fit, first_fit
from tests.plugins.tiny import tiny

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
WHOLE = STRATEGIES[1:]
PAD = 1
lengths = st.lists(st.integers(0, 23), max_size=30)
rows_of_a_batch, row_length = st.integers(1, 3), st.integers(2, 9)


def numbered(sizes: list[int]) -> list[list[int]]:
    """Return documents of the given sizes, without a common token."""
    ids = count(10)
    return [list(islice(ids, size)) for size in sizes]


def pieces_of(batch: Batch) -> Iterator[list[tuple[int, ...]]]:
    """Yield the documents of each row, split where positions restart; padding is one of them."""
    ids, positions = batch.inputs["input_ids"].tolist(), batch.inputs["position_ids"].tolist()
    for row, offsets in zip(ids, positions, strict=True):
        starts = [at for at, offset in enumerate(offsets) if offset == 0]
        ends = [*starts[1:], len(row)]
        assert offsets == [at for start, end in zip(starts, ends, strict=True) for at in range(end - start)]
        yield [tuple(row[start:end]) for start, end in zip(starts, ends, strict=True)]


def check(batch: Batch, rows: int, length: int) -> None:
    ids, labels, positions = (batch.inputs[name] for name in ("input_ids", "labels", "position_ids"))
    assert ids.shape == labels.shape == positions.shape == (rows, length)
    assert ids.is_contiguous() and ids.dtype == labels.dtype == positions.dtype == torch.int64
    padding = ids == PAD
    assert batch.tokens == int((~padding).sum())
    assert torch.equal(labels, ids.masked_fill(padding | (positions == 0), IGNORE_INDEX))


@given(lengths, rows_of_a_batch, row_length)
@settings(max_examples=100)
def test_greedy_rows_are_one_stream(sizes: list[int], rows: int, length: int) -> None:
    texts = [text for text in numbered(sizes) if len(text) > 1]
    batches = list(packed_batches(numbered(sizes), rows, length))
    flow = list(chain.from_iterable(texts))
    ids = [i for batch in batches for i in batch.inputs["input_ids"].flatten().tolist()]
    assert ids == flow[: len(flow) // (rows * length) * rows * length]  # every token in order, except the last few
    firsts = {text[0] for text in texts}
    for batch in batches:
        check(batch, rows, length)
        for row in pieces_of(batch):  # a piece starts with a document or with a row
            assert all(piece[0] in firsts for piece in row[1:])
            assert not any(token in firsts for piece in row for token in piece[1:])


@pytest.mark.parametrize("strategy", WHOLE)
@given(lengths, rows_of_a_batch, row_length)
@settings(max_examples=100)
def test_documents_stay_whole(strategy: Strategy, sizes: list[int], rows: int, length: int) -> None:
    texts = [tuple(text) for text in numbered(sizes) if len(text) > 1]
    batches = list(packed_batches(numbered(sizes), rows, length, strategy=strategy, pad_id=PAD))
    found: list[tuple[int, ...]] = []
    for batch in batches:
        check(batch, rows, length)
        for row in pieces_of(batch):
            assert all(PAD not in piece for piece in row[:-1])
            found += [piece for piece in row if PAD not in piece]
            assert set(row[-1]) == {PAD} or PAD not in row[-1]
    tokens = list(chain.from_iterable(found))
    assert len(tokens) == len(set(tokens))  # no token twice
    lost = sum(map(len, texts)) - len(tokens)
    assert lost <= (rows - 1) * length  # less than a batch, and nothing if a batch has one row
    if not lost:
        assert sorted(tokens) == list(chain.from_iterable(texts))
    for piece in found:  # a document, or a part of one that is longer than a row
        text = next(text for text in texts if piece[0] in text)
        at = text.index(piece[0])
        assert text[at : at + len(piece)] == piece
        assert piece == text or len(text) > length
        assert len(piece) > 1 or length == 2


def test_a_cut_leaves_no_single_token() -> None:
    (batch,) = packed_batches(numbered([9]), 3, 4, strategy="best-fit", pad_id=PAD)
    assert [row[0] for row in pieces_of(batch)] == [(10, 11, 12, 13), (14, 15, 16), (17, 18)]


def plain_fit(sizes: list[int], length: int, *, best: bool) -> list[int]:
    """Return the filled share of each row, by a direct implementation."""
    filled: list[int] = []
    for size in sorted(sizes, reverse=True) if best else sizes:
        fitting = [row for row, used in enumerate(filled) if used + size <= length]
        if not fitting:
            filled.append(size)
        else:
            filled[max(fitting, key=lambda row: (filled[row] if best else 0, -row))] += size
    return filled


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n), max_size=60))))
@settings(max_examples=200)
def test_first_fit_and_best_fit_equal_a_direct_implementation(case: tuple[int, list[int]]) -> None:
    length, sizes = case
    for fit, best in ((first_fit, False), (best_fit, True)):
        row_of = fit(sizes, length)
        filled = [
            sum(size for size, at in zip(sizes, row_of, strict=True) if at == row) for row in range(len({*row_of}))
        ]
        expected = plain_fit(sizes, length, best=best)
        assert sorted(filled) == sorted(expected) if best else filled == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_endless_stream_loses_no_token(strategy: Strategy) -> None:
    """Rows that do not fill a batch are packed again with the next window."""
    sizes = [2 + 7 * n % 31 for n in range(4000)]
    batches = list(packed_batches(numbered(sizes), 4, 16, strategy=strategy, pad_id=PAD))
    tokens = sum(batch.tokens for batch in batches)
    assert len(batches) > 3 * WINDOW_BATCHES
    assert sum(sizes) - tokens < 4 * 16
    assert tokens / (len(batches) * 4 * 16) > 0.9
    endless = packed_batches(
        chain.from_iterable(numbered(sizes) for _ in count()), 4, 16, strategy=strategy, pad_id=PAD
    )
    assert torch.equal(next(endless).inputs["input_ids"], batches[0].inputs["input_ids"])


def test_the_window_is_limited_for_long_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forgather_core.data.batches.MAX_WINDOW_TOKENS", 100)
    taken: list[int] = []
    texts = (taken.append(n) or [7] * 10 for n in count())  # type: ignore[func-returns-value]
    next(packed_batches(texts, 2, 20, strategy="best-fit"))
    assert len(taken) == 10


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_packing_is_fast(strategy: Strategy) -> None:
    sizes = torch.randint(2, 39, (25_000,), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [[7] * size for size in sizes]
    started = time.process_time()
    batches = list(packed_batches(texts, 8, 512, strategy=strategy, pad_id=PAD))
    assert time.process_time() - started < 1.0  # 0.05 s on an idle machine
    assert sum(batch.tokens for batch in batches) / (len(batches) * 8 * 512) > 0.99


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_packed_batch_has_the_loss_of_its_documents_alone(strategy: Strategy) -> None:
    model = tiny("llama", vocab_size=97)
    texts = [torch.randint(3, 97, (n,)).tolist() for n in (7, 12, 5)]
    (batch,) = packed_batches(texts, 1, 24 if strategy == "greedy" else 29, strategy=strategy, pad_id=PAD)
    packed = model(**batch.inputs).loss
    total, targets = 0.0, 0
    for text in texts:
        ids = torch.tensor([text])
        total += model(ids, labels=ids).loss.item() * (len(text) - 1)
        targets += len(text) - 1
    assert abs(packed.item() - total / targets) <= 1e-5
