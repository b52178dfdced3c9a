"""Documents become token ids, without end: a corpus that runs out begins again."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..errors import DataError, first_line
from .corpus import Corpus, Document

MARGIN = 64  # tokens before a cut that may depend on what follows it
NEAR = 256  # characters in which a cut looks for white space
# Models whose tokens depend on nearby text only. Unigram chooses the best split of a whole text: the end of a long run
# of equal characters may decide how its beginning is split.
LOCAL_MODELS = {"BPE", "WordLevel", "WordPiece"}


def tokenized_documents(
    corpus: Corpus, tokenizer: Any, *, longest: int | None = None
) -> Generator[Sequence[int], None, None]:
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
        ids = _beginning(document, tokenizer, longest)
        closed = bool(ids) and ids[-1] == tokenizer.eos_token_id
    else:
        text = _rendered(document, tokenizer)
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # the template writes its own
        closed = tokenizer.eos_token is not None and text.rstrip().endswith(tokenizer.eos_token)
    if not closed and tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    return ids[:longest]


def _beginning(text: str, tokenizer: Any, longest: int | None) -> list[int]:
    """The token ids of a text; of a long one, `longest` ids at least of its beginning, equal to those of the whole.

    A token may stand for any number of characters, so no number of characters is enough by itself. Beginnings of
    growing length are tokenized until two agree, with a margin for what the cut changes; if none do, the whole text is.
    So is every text of a tokenizer that is not one of `LOCAL_MODELS`.
    """

    def encoded(part: str) -> list[int]:
        ids: list[int] = tokenizer(part, verbose=False)["input_ids"]
        return ids

    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if longest is None or type(model).__name__ not in LOCAL_MODELS:
        return encoded(text)
    size, known = 8 * longest + 1024, None
    while 2 * size < len(text):
        ids = encoded(text[: _word_end(text, size)])
        enough = len(ids) >= longest + MARGIN
        if enough and known == ids[:longest]:
            return ids
        known = ids[:longest] if enough else None
        size *= 2
    return encoded(text)


def _word_end(text: str, size: int) -> int:
    """A place to cut a text near `size`: before white space, where there is any. Tokens rarely cross it."""
    spaces = (at for at in range(size, max(size - NEAR, 1), -1) if text[at].isspace() and not text[at - 1].isspace())
    return next(spaces, size)


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
