"""Documents become token ids, without end: a corpus that runs out begins again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import DataError, first_line
from .corpus import Corpus, Document


def tokenized_documents(corpus: Corpus, tokenizer: Any, *, longest: int | None = None) -> Iterator[Sequence[int]]:
    """The documents of a corpus as token ids, each closed by the tokenizer's end token, again and again.

    Args:
        corpus: Texts, or chats, which the tokenizer's chat template renders.
        tokenizer: A transformers tokenizer; it opens texts as it is set up to do.
        longest: Where documents are cut; None cuts none.

    Raises:
        DataError: The corpus has no text, or the tokenizer no chat template that takes its chats.
    """
    while True:
        empty = True
        for document in corpus.documents():
            empty = False
            yield token_ids(document, tokenizer, longest=longest)
        if empty:
            raise DataError(f"the dataset {corpus.name} holds no text")


def token_ids(document: Document, tokenizer: Any, *, longest: int | None = None) -> list[int]:
    """One document as `tokenized_documents` gives it."""
    if isinstance(document, str):
        # More characters than this cannot be needed: a token is one character at least, bar a few of normalization.
        text = document if longest is None else document[: 16 * longest + 1024]
        ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
        closed = bool(ids) and ids[-1] == tokenizer.eos_token_id
    else:
        text = _rendered(document, tokenizer)
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # the template writes its own
        closed = tokenizer.eos_token is not None and text.rstrip().endswith(tokenizer.eos_token)
    if not closed and tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    return ids[:longest]


def _rendered(messages: Document, tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        raise DataError(
            "the tokenizer has no chat template for the dataset's messages: add --chat-template chatml, or take "
            "another tokenizer"
        )
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception as error:  # a template raises what it likes
        reason = first_line(error)
        raise DataError(f"the tokenizer's chat template refuses a chat of the dataset: {reason}") from None
    return text
