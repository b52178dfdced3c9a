"""Endless streams, long words, and abandoned streams."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgather_core.data import batches, sources
from forgather_core.data.batches import packed_batches, padded_batches
from forgather_core.data.configuration import DatasetConfiguration
from forgather_core.data.projects import open_corpus
from forgather_core.data.tokenized import token_ids
from forgather_core.errors import DataError
from tests.core.tokenizers.test_lookup import LOADED

CHAT = [{"role": "user", "content": "x"}]


@pytest.mark.regression("endless-stream")
@pytest.mark.parametrize("document", [[], [5]], ids=["empty", "one token"])
@pytest.mark.parametrize("strategy", ["greedy", "first-fit", "best-fit", None])
def test_an_endless_stream_of_short_documents_raises(document: list[int], strategy: Any) -> None:
    class Endless:
        """Fail instead of reading forever."""

        def __iter__(self) -> Any:
            yield from repeat(document, 200_000)
            pytest.fail("200,000 documents were read")

    with pytest.raises(DataError, match="consecutive documents have fewer than two tokens"):
        if strategy is None:
            next(padded_batches(Endless(), 1, 4, 0))  # type: ignore[arg-type]
        else:
            next(packed_batches(Endless(), 1, 4, strategy=strategy))  # type: ignore[arg-type]


def test_skips_short_documents_between_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_SHORT_DOCUMENTS", 3)
    documents = [[1], [2], [3, 4], [5], [6], [7, 8]]
    (batch,) = packed_batches(documents, 1, 4)
    assert batch.inputs["input_ids"].tolist() == [[3, 4, 7, 8]]


@pytest.mark.regression("tokenizing")
@pytest.mark.parametrize("name", LOADED)
def test_tokenizes_a_long_word_up_to_the_length(name: str) -> None:
    tokenizer = LOADED[name]
    text = "#" * 40_000
    assert token_ids(text, tokenizer, longest=128) == token_ids(text, tokenizer)[:128]


def _wordy() -> Any:
    """Return a tokenizer with tokens of many characters: whole words, and the unknown token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[UNK]": 0, "ab": 1, "a": 2, "##a": 3, "##b": 4, "</s>": 5}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=50))  # type: ignore[call-arg]
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("zz", "")])  # type: ignore[list-item]
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="[UNK]")


TOKENIZERS = {**LOADED, "wordpiece": _wordy()}
PIECES = st.sampled_from(
    ["#", " ", "a", "ab ", "ﬃ", "é", "e\u0301", "zz", "<|EOS|>", "</s>", "\n", "\U0001f600", "word "]
)


@pytest.mark.regression("tokenizing")
@pytest.mark.parametrize("name", TOKENIZERS)
@given(st.lists(st.tuples(PIECES, st.integers(1, 6000)), min_size=1, max_size=4), st.sampled_from([2, 9, 64]))
@settings(max_examples=12)
def test_the_ids_of_a_prefix_equal_those_of_the_whole_text(
    name: str, parts: list[tuple[str, int]], longest: int
) -> None:
    text = "".join(piece * count for piece, count in parts)
    assert token_ids(text, TOKENIZERS[name], longest=longest) == token_ids(text, TOKENIZERS[name])[:longest]


@pytest.mark.regression("tokenizing")
def test_with_unigram_the_end_of_a_text_may_change_its_first_tokens() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.Unigram([("<unk>", -20.0), ("a", -2.0), ("aaa", -2.1)], unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    for size in range(30_000, 30_003):
        assert token_ids("a" * size, tokenizer, longest=100) == token_ids("a" * size, tokenizer)[:100]


@pytest.mark.parametrize(("column", "value"), [("text", " "), ("text", None), ("chat", [])])
def test_an_endless_stream_of_empty_rows_raises(monkeypatch: pytest.MonkeyPatch, column: str, value: Any) -> None:
    monkeypatch.setattr(sources, "MAX_EMPTY_ROWS", 50)
    rows: Any = iter([{column: value}] * 49 + [{column: "x" if column == "text" else CHAT}] + [{column: value}] * 60)
    monkeypatch.setattr(sources, "_rows", lambda _: rows)
    keys = {"messages": "chat"} if column == "chat" else {}
    configuration = DatasetConfiguration(file=Path("c.yaml"), source="json", **keys)
    documents = sources.configured_corpus("c", configuration).documents()
    assert next(documents)
    with pytest.raises(DataError, match="50 consecutive rows are empty"):
        next(documents)


@pytest.mark.regression("datasets-logger")
def test_an_abandoned_stream_silences_nothing(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "texts.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "default.yaml").write_text("source: json\nfiles: texts.jsonl\nstreaming: true\n")
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    before = [logger.level for logger in loggers], datasets.are_progress_bars_disabled()
    documents = open_corpus(str(tmp_path)).documents()
    assert next(documents) == "one"
    assert ([logger.level for logger in loggers], datasets.are_progress_bars_disabled()) == before
    loggers[0].setLevel(logging.ERROR)  # a level set by the caller meanwhile is kept
    try:
        assert list(documents) == ["two"]
        gc.collect()
        assert loggers[0].level == logging.ERROR
    finally:
        loggers[0].setLevel(before[0][0])


@pytest.mark.slow
@pytest.mark.regression("exit-noise")
def test_an_abandoned_stream_is_silent_at_exit(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "texts.jsonl").write_text('{"text": "one"}\n' * 50)
    (tmp_path / "default.yaml").write_text("source: json\nfiles: texts.jsonl\nstreaming: true\n")
    code = (
        "import sys, forgather_core.data.sources\n"
        "from forgather_core.data.projects import open_corpus\n"
        "documents = open_corpus(sys.argv[1]).documents()\n"
        "print(next(documents))\n"
        "sys.modules['kept'] = documents\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "one\n", "")
