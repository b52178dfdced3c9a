"""Packing loses no token, overfills no row, and lets no document predict another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain, count, islice
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forgather_core.data.batches import IGNORE, WINDOW, Batch, packed_batches
from forgather_core.data.packing import Strategy, best_fit, first_fit
from tests.plugins.tiny import tiny

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
WHOLE = STRATEGIES[1:]
PAD = 1
lengths = st.lists(st.integers(0, 23), max_size=30)
rows_of_a_batch, row_length = st.integers(1, 3), st.integers(2, 9)


def numbered(sizes: list[int]) -> list[list[int]]:
    """Documents of such sizes, no token of which is another's."""
    ids = count(10)
    return [list(islice(ids, size)) for size in sizes]


def pieces_of(batch: Batch) -> Iterator[list[tuple[int, ...]]]:
    """The documents of each row, told apart by their positions; padding is one of them."""
    ids, positions = batch.inputs["input_ids"].tolist(), batch.inputs["position_ids"].tolist()
    for row, places in zip(ids, positions, strict=True):
        starts = [at for at, place in enumerate(places) if place == 0]
        ends = [*starts[1:], len(row)]
        assert places == [at for start, end in zip(starts, ends, strict=True) for at in range(end - start)]
        yield [tuple(row[start:end]) for start, end in zip(starts, ends, strict=True)]


def check(batch: Batch, rows: int, length: int) -> None:
    ids, labels, positions = (batch.inputs[name] for name in ("input_ids", "labels", "position_ids"))
    assert ids.shape == labels.shape == positions.shape == (rows, length)
    assert ids.is_contiguous() and ids.dtype == labels.dtype == positions.dtype == torch.int64
    padding = ids == PAD
    assert batch.tokens == int((~padding).sum())
    assert torch.equal(labels, ids.masked_fill(padding | (positions == 0), IGNORE))


@given(lengths, rows_of_a_batch, row_length)
@settings(max_examples=100)
def test_greedy_rows_are_one_stream(sizes: list[int], rows: int, length: int) -> None:
    texts = [text for text in numbered(sizes) if len(text) > 1]
    batches = list(packed_batches(numbered(sizes), rows, length))
    flow = list(chain.from_iterable(texts))
    ids = [i for batch in batches for i in batch.inputs["input_ids"].flatten().tolist()]
    assert ids == flow[: len(flow) // (rows * length) * rows * length]  # every token, in order, but the last few
    firsts = {text[0] for text in texts}
    for batch in batches:
        check(batch, rows, length)
        for row in pieces_of(batch):  # a piece begins with a document or with a row, and nowhere else
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
    assert len(tokens) == len(set(tokens))  # none twice
    lost = sum(map(len, texts)) - len(tokens)
    assert lost <= (rows - 1) * length  # of one row nothing; else less than a batch
    if not lost:
        assert sorted(tokens) == list(chain.from_iterable(texts))
    for piece in found:  # a document, or a part of one that is longer than a row
        text = next(text for text in texts if piece[0] in text)
        at = text.index(piece[0])
        assert text[at : at + len(piece)] == piece
        assert piece == text or len(text) > length
        assert len(piece) > 1 or length == 2


def test_a_cut_leaves_no_token_alone() -> None:
    (batch,) = packed_batches(numbered([9]), 3, 4, strategy="best-fit", pad_id=PAD)
    assert [row[0] for row in pieces_of(batch)] == [(10, 11, 12, 13), (14, 15, 16), (17, 18)]


def plain_fit(sizes: list[int], length: int, *, best: bool) -> list[int]:
    """The rows' fillings, as the definition says."""
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
def test_fits_are_what_their_names_say(case: tuple[int, list[int]]) -> None:
    length, sizes = case
    for fit, best in ((first_fit, False), (best_fit, True)):
        places = fit(sizes, length)
        filled = [
            sum(size for size, at in zip(sizes, places, strict=True) if at == row) for row in range(len({*places}))
        ]
        expected = plain_fit(sizes, length, best=best)
        assert sorted(filled) == sorted(expected) if best else filled == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stream_without_end_loses_nothing(strategy: Strategy) -> None:
    """What made no batch comes with the next window."""
    sizes = [2 + 7 * n % 31 for n in range(4000)]
    batches = list(packed_batches(numbered(sizes), 4, 16, strategy=strategy, pad_id=PAD))
    tokens = sum(batch.tokens for batch in batches)
    assert len(batches) > 3 * WINDOW
    assert sum(sizes) - tokens < 4 * 16
    assert tokens / (len(batches) * 4 * 16) > 0.9
    again = packed_batches(chain.from_iterable(numbered(sizes) for _ in count()), 4, 16, strategy=strategy, pad_id=PAD)
    assert torch.equal(next(again).inputs["input_ids"], batches[0].inputs["input_ids"])


def test_a_window_of_long_rows_is_not_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forgather_core.data.batches.WIDEST", 100)
    taken: list[int] = []
    texts = (taken.append(n) or [7] * 10 for n in count())  # type: ignore[func-returns-value]
    next(packed_batches(texts, 2, 20, strategy="best-fit"))
    assert len(taken) == 10


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_packing_is_quick(strategy: Strategy) -> None:
    sizes = torch.randint(2, 39, (25_000,), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [[7] * size for size in sizes]
    started = time.process_time()
    batches = list(packed_batches(texts, 8, 512, strategy=strategy, pad_id=PAD))
    assert time.process_time() - started < 1.0  # 0.05 s where nothing else runs
    assert sum(batch.tokens for batch in batches) / (len(batches) * 8 * 512) > 0.99


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_packed_batch_has_the_loss_of_its_documents_one_by_one(strategy: Strategy) -> None:
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
