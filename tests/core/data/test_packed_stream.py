"""A stream of packed rows continues at any batch as if it had not been interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forgather_core.data.batches import IGNORE_INDEX
from forgather_core.data.corpus import Corpus, CorpusDigest
from forgather_core.data.packed_stream import PackedStream
from forgather_core.data.packing import Strategy
from forgather_core.errors import DataError


class Characters:
    """A tokenizer of single characters, whose tokens are code points."""

    eos_token_id = 1
    eos_token = "\x01"
    chat_template = None

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}


def corpus(*texts: str) -> Corpus:
    return Corpus("texts", lambda: iter(texts))


def rows(stream: PackedStream, count: int) -> list[dict[str, torch.Tensor]]:
    return list(islice(iter(stream), count))


def equal(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


TEXTS = st.lists(st.text("abcdefgh", max_size=30), min_size=1, max_size=12).filter(any)


@pytest.mark.parametrize("strategy", ["greedy", "first-fit", "best-fit"])
@given(texts=TEXTS, batches=st.integers(0, 9), ahead=st.integers(0, 5), size=st.integers(1, 3))
def test_a_stream_continues_after_any_batch(
    strategy: Strategy, texts: list[str], batches: int, ahead: int, size: int
) -> None:
    def stream(position: dict[str, object] | None = None) -> PackedStream:
        return PackedStream(corpus(*texts), Characters(), size, 8, strategy=strategy, position=position)

    whole = rows(stream(), size * (batches + 4))
    interrupted = stream()
    rows(interrupted, size * batches + min(ahead, size * 4))  # a trainer fetches ahead
    position = json.loads(json.dumps(interrupted.position_after(batches)))
    assert equal(rows(stream(position), size * 4), whole[size * batches :])


def test_a_stream_continues_twice() -> None:
    def stream(position: dict[str, object] | None = None) -> PackedStream:
        return PackedStream(corpus("abcdefg", "hijk", "lmnopqrstuvwxyz"), Characters(), 2, 5, position=position)

    whole = rows(stream(), 40)
    first = stream()
    rows(first, 8)
    second = stream(first.position_after(3))
    rows(second, 8)
    assert second.position_after(6)["batch"] == 6  # batches are counted from the beginning of the run
    assert equal(rows(stream(second.position_after(6)), 4), whole[12:16])


def test_documents_end_with_a_token_and_repeat() -> None:
    found = rows(PackedStream(corpus("abc", "de"), Characters(), 1, 7), 2)
    assert found[0]["input_ids"].tolist() == [97, 98, 99, 1, 100, 101, 1]
    assert found[0]["position_ids"].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert found[0]["labels"].tolist() == [IGNORE_INDEX, 98, 99, 1, IGNORE_INDEX, 101, 1]
    assert found[1]["input_ids"].tolist() == found[0]["input_ids"].tolist()


def test_documents_that_were_read_are_not_tokenized_again() -> None:
    tokenized: list[str] = []

    class Recorded(Characters):
        def __call__(self, text: str, **more: object) -> dict[str, list[int]]:
            tokenized.append(text)
            return super().__call__(text, **more)

    texts = ["a" * 9, "b" * 9, "c" * 9, "d" * 9]
    first = PackedStream(corpus(*texts), Recorded(), 1, 10)
    rows(first, 3)
    position = first.position_after(2)
    tokenized.clear()
    rows(PackedStream(corpus(*texts), Recorded(), 1, 10, position=position), 1)
    assert tokenized == ["c" * 9]


@pytest.mark.parametrize("changed", [["a" * 8, "b" * 9], ["b" * 9, "a" * 9], ["a" * 9], ["c" * 9, "a" * 9, "b" * 9]])
@pytest.mark.parametrize("batches", [2, 4])  # in the first pass over the documents, and in the second one
def test_a_corpus_that_has_changed_is_refused(changed: list[str], batches: int) -> None:
    texts = ["a" * 9, "b" * 9]
    first = PackedStream(corpus(*texts), Characters(), 1, 10)
    rows(first, batches + 1)
    position = first.position_after(batches)
    with pytest.raises(DataError, match=r"texts has changed since the checkpoint.*: restore the data, or begin a new"):
        rows(PackedStream(corpus(*changed), Characters(), 1, 10, position=position), 1)


def test_a_changed_document_of_the_current_window_is_noticed() -> None:
    texts = ["".join(chr(97 + (n + i) % 26) for i in range(9)) for n in range(40)]
    first = PackedStream(corpus(*texts), Characters(), 1, 10, strategy="first-fit")
    rows(first, 3)
    position = first.position_after(2)
    assert position["batches_of_window"] == 2
    for number in (0, 5):
        changed = [*texts[:number], texts[number].upper(), *texts[number + 1 :]]
        with pytest.raises(DataError, match="has changed since the checkpoint"):
            rows(PackedStream(corpus(*changed), Characters(), 1, 10, strategy="first-fit", position=position), 1)


def test_a_document_of_an_earlier_pass_is_noticed() -> None:
    first = PackedStream(corpus("a" * 9, "b" * 9, "c" * 9), Characters(), 1, 10)
    rows(first, 5)
    position = json.loads(json.dumps(first.position_after(4)))
    assert (position["pass"], position["document"]) == (1, 1)
    with pytest.raises(DataError, match="has changed since the checkpoint"):
        rows(PackedStream(corpus("a" * 9, "b" * 9, "x" * 9), Characters(), 1, 10, position=position), 1)


def test_the_roles_of_a_chat_are_part_of_the_digest() -> None:
    digests = set()
    for role in ("user", "system"):
        digest = CorpusDigest()
        digest.add([{"role": role, "content": "a"}])
        digests.add(str(digest))
    assert len(digests) == 2


def test_documents_may_be_added_behind_those_that_were_read() -> None:
    first = PackedStream(corpus("a" * 9, "b" * 9, "c" * 9), Characters(), 1, 10)
    rows(first, 2)
    more = PackedStream(
        corpus("a" * 9, "b" * 9, "c" * 9, "d" * 9), Characters(), 1, 10, position=first.position_after(1)
    )
    assert [chr(row["input_ids"][0]) for row in rows(more, 3)] == ["b", "c", "d"]


def test_a_corpus_without_text_is_refused() -> None:
    def nothing() -> Iterator[str]:
        yield from ()

    with pytest.raises(DataError, match="contains no text"):
        rows(PackedStream(Corpus("empty", nothing), Characters(), 1, 8), 1)
