"""Texts become documents of token ids, without end: a corpus that runs out begins again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import DataError
from .projects import Corpus


def tokenized_documents(corpus: Corpus, tokenizer: Any, *, longest: int | None = None) -> Iterator[Sequence[int]]:
    """The documents of a corpus as token ids, each closed by the tokenizer's end token, again and again.

    Args:
        corpus: The texts.
        tokenizer: A transformers tokenizer; it opens documents as it is set up to do.
        longest: Where documents are cut; None cuts none.

    Raises:
        DataError: The corpus has no text.
    """
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    while True:
        empty = True
        for text in corpus.texts():
            # More characters than this cannot be needed: a token is one character at least, bar a few of normalization.
            part = text if longest is None else text[: 16 * longest + 1024]
            ids: list[int] = tokenizer(part, verbose=False)["input_ids"]
            empty = False
            yield [*ids, *end][:longest]
        if empty:
            raise DataError(f"the dataset {corpus.name} holds no text")
