"""Shipped and trained tokenizers split and merge text as llama.cpp does for Llama 3."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from forgather_core.tokenizers.lookup import shipped_tokenizers
from forgather_core.tokenizers.train import byte_tokenizer, train_bpe

# Copied from Llama 3's tokenizer.json, not from the module under test.
LLAMA3 = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [f"\tdef f{n}(self):\n        return self.It's[{n * 37}] + \"don't\"  # Größe\r\n\n" for n in range(300)]


@cache
def tokenizer(name: str) -> Any:
    """Return a tokenizer under test."""
    if name == "trained":
        return train_bpe(TEXTS, 300)
    return Tokenizer.from_file(str(shipped_tokenizers()[name] / "tokenizer.json"))


@cache
def content(name: str) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Return the vocabulary of a tokenizer, and the rank of each merge."""
    model = json.loads(tokenizer(name).to_str())["model"]
    return model["vocab"], {tuple(pair): rank for rank, pair in enumerate(model["merges"])}


def byte_letters() -> dict[int, str]:
    """Return the character of each byte in byte-level BPE."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + at) for at, byte in enumerate(hidden)}


def llama_cpp_ids(name: str, text: str) -> list[int]:
    """Return the token ids of llama.cpp for the pattern `llama-bpe`: whole words first, then merges by rank."""
    letters, (vocabulary, ranks) = byte_letters(), content(name)
    ids = []
    for piece in LLAMA3.findall(text):
        word = "".join(letters[byte] for byte in piece.encode())
        parts = [word] if word in vocabulary else list(word)
        while found := [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]:
            at = min(found)[1]
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        ids += [vocabulary[part] for part in parts]
    return ids


PIECES = ["'LL", "'s", " ", "  ", "\t", "\n", "\r\n", "self", "Return", ".", "__", "(", "12345", "é", "日本"]


@pytest.mark.regression("E11")
@pytest.mark.parametrize("name", ["bpe-2k", "bpe-8k", "trained"])
@given(text=st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
@example(text="\t(self.foo) 1234567 I'Ve\n\n  x")
@settings(max_examples=60, deadline=None)
def test_token_ids_equal_those_of_llama_cpp(name: str, text: str) -> None:
    text = unicodedata.normalize("NFC", text)
    if not any(token in text for token in ("<|BOS|>", "<|im_")):
        assert tokenizer(name).encode(text, add_special_tokens=False).ids == llama_cpp_ids(name, text)


@pytest.mark.regression("E11")
@pytest.mark.parametrize("name", ["bpe-2k", "bpe-8k", "bytes"])
def test_shipped_files_are_converted_like_llama_3(name: str) -> None:
    parts = json.loads((shipped_tokenizers()[name] / "tokenizer.json").read_text())
    split, byte_level = parts["pre_tokenizer"]["pretokenizers"]
    assert split["pattern"] == {"Regex": LLAMA3.pattern} and split["behavior"] == "Isolated"
    assert (byte_level["type"], byte_level["use_regex"]) == ("ByteLevel", False)
    assert parts["model"]["ignore_merges"] and not parts["model"]["byte_fallback"]


@pytest.mark.parametrize("size", [280, 300])
def test_training_is_deterministic(size: int) -> None:
    assert train_bpe(TEXTS, size).to_str() == train_bpe(iter(TEXTS), size).to_str()


def test_the_shipped_byte_tokenizer_is_up_to_date() -> None:
    assert json.loads(byte_tokenizer().to_str()) == json.loads(tokenizer("bytes").to_str())
