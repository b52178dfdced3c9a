"""A corpus is split by document, the same way each time, and equal documents are never on both sides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgather_core.data.corpus import Corpus, Document
from forgather_core.data.held_out import split_corpus
from forgather_core.errors import DataError


def corpus(*documents: Document) -> Corpus:
    return Corpus("texts", lambda: iter(documents))


TEXTS = st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=30).filter(lambda found: len(set(found)) > 1)


@given(TEXTS, st.floats(0.01, 0.9))
def test_every_document_is_in_one_part(texts: list[str], fraction: float) -> None:
    split = split_corpus(corpus(*texts), fraction)
    training, held_out = list(split.training.documents()), list(split.held_out.documents())
    assert sorted([*training, *held_out]) == sorted(texts)
    assert training
    assert held_out
    assert not set(training) & set(held_out)
    assert split.note is None


@given(st.lists(st.text(min_size=1), min_size=60, max_size=80, unique=True), st.text(min_size=1))
def test_the_part_of_a_document_does_not_depend_on_the_others(texts: list[str], more: str) -> None:
    before = set(split_corpus(corpus(*texts), 0.3).held_out.documents())
    after = set(split_corpus(corpus(more, *reversed(texts)), 0.3).held_out.documents())
    assert before - {more} == after - {more}


def test_the_fraction_is_that_of_the_documents() -> None:
    texts = [f"text {number}" for number in range(5000)]
    held_out = list(split_corpus(corpus(*texts), 0.1).held_out.documents())
    assert 400 < len(held_out) < 600


def test_the_end_of_a_single_text_is_held_out() -> None:
    text = "".join(f"line {number}\n" for number in range(100))
    split = split_corpus(corpus(text), 0.1)
    (training,), (held_out,) = split.training.documents(), split.held_out.documents()
    assert training + held_out == text
    assert training.endswith("\n")
    assert 50 < len(held_out) < 150
    assert split.note == "texts has one document: its end is held out"


@pytest.mark.parametrize("text", ["one line\n" * 3 + "the last line\n", "no line end at all, but enough words", "ab"])
def test_both_parts_of_a_single_text_have_text(text: str) -> None:
    split = split_corpus(corpus(text), 0.02)
    (training,), (held_out,) = split.training.documents(), split.held_out.documents()
    assert training + held_out == text
    assert isinstance(held_out, str)
    assert held_out.strip()


@pytest.mark.parametrize("document", ["a", [{"role": "user", "content": "a"}]])
def test_a_document_of_one_part_is_refused(document: Document) -> None:
    with pytest.raises(DataError, match="too short to hold out a part"):
        split_corpus(corpus(document), 0.5)


def test_chats_are_split_by_their_messages() -> None:
    chats = [[{"role": "user", "content": f"question {number}"}] for number in range(50)]
    split = split_corpus(corpus(*chats), 0.2)
    training, held_out = list(split.training.documents()), list(split.held_out.documents())
    assert len(training) + len(held_out) == 50
    assert held_out
    assert all(chat not in training for chat in held_out)


def test_a_corpus_without_text_is_refused() -> None:
    with pytest.raises(DataError, match="contains no text"):
        split_corpus(corpus(), 0.1)
