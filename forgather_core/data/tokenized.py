"""Tokenize documents, in an endless loop over the corpus."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..errors import DataError, first_line
from .corpus import Corpus, Document

MARGIN = 64  # tokens before a cut that may depend on the text after it
NEAR = 256  # characters before a cut that are searched for white space
# Models whose tokens depend on nearby text only. Unigram optimizes the split of the whole text: the end of a long run
# of equal characters may change the tokens of its beginning.
LOCAL_MODELS = {"BPE", "WordLevel", "WordPiece"}


def tokenized_documents(
    corpus: Corpus, tokenizer: Any, *, longest: int | None = None
) -> Generator[Sequence[int], None, None]:
    """Yield the token ids of each document, in an endless loop over the corpus.

    Each document ends with the tokenizer's EOS token; texts begin with the special tokens that the tokenizer adds.

    Args:
        corpus: Texts, or chats, which are rendered by the tokenizer's chat template.
        tokenizer: A transformers tokenizer.
        longest: Maximum number of tokens of a document; None is unlimited.

    Raises:
        DataError: The corpus has no text, or the tokenizer has no chat template that accepts its chats.
    """
    while True:
        empty = True
        for document in corpus.documents():
            empty = False
            yield token_ids(document, tokenizer, longest=longest)
        if empty:
            raise no_text(corpus)


def no_text(corpus: Corpus) -> DataError:
    """Return the error of a corpus without documents."""
    hint = "use other files, or check text_column, skip and take"
    return DataError(f"the dataset {corpus.name} contains no text", hint=hint)


def token_ids(document: Document, tokenizer: Any, *, longest: int | None = None) -> list[int]:
    """Return the token ids of one document, as `tokenized_documents` yields it."""
    if isinstance(document, str):
        ids = _prefix_ids(document, tokenizer, longest)
        closed = bool(ids) and ids[-1] == tokenizer.eos_token_id
    else:
        text = _rendered(document, tokenizer)
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # the template adds special tokens
        closed = tokenizer.eos_token is not None and text.rstrip().endswith(tokenizer.eos_token)
    if not closed and tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    return ids[:longest]


def _prefix_ids(text: str, tokenizer: Any, longest: int | None) -> list[int]:
    """Return the token ids of a text, or of a prefix with at least the first `longest` ids of the whole text.

    A token may represent any number of characters, so no prefix length is sufficient in general. Prefixes of growing
    length are tokenized until two agree, with a margin for tokens that the cut changes. If no two agree, or if the
    tokenizer's model is not in `LOCAL_MODELS`, the whole text is tokenized.
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
    """Return a position near `size` to cut a text, if possible before white space, which tokens rarely cross."""
    spaces = (at for at in range(size, max(size - NEAR, 1), -1) if text[at].isspace() and not text[at - 1].isspace())
    return next(spaces, size)


def _rendered(messages: Document, tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        hint = "add --chat-template chatml, or use another tokenizer"
        raise DataError("the tokenizer has no chat template for the dataset's messages", hint=hint)
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception as error:  # a template may raise any exception
        reason = first_line(error)
        problem = f"the tokenizer's chat template rejects a chat of the dataset: {reason}"
        raise DataError(problem, hint="correct the dataset, or use another --chat-template") from None
    return text
