"""Documents of a dataset project: texts, or chats as lists of messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

Message = Mapping[str, Any]  # with role and content
Document = str | Sequence[Message]

HASH_BITS = 64


def _one_text_column() -> dict[str, str]:
    return {"text": "string"}


@dataclass(frozen=True)
class Corpus:
    """Documents of a dataset project.

    Args:
        name: Project and configuration, for reports.
        documents: Returns a new iterator over all documents.
        columns: Returns the types of the columns by name.
        origin: Keys and values of the dataset configuration, for reports.
    """

    name: str
    documents: Callable[[], Iterator[Document]]
    columns: Callable[[], dict[str, str]] = _one_text_column
    origin: Mapping[str, Any] | None = None

    def texts(self) -> Iterator[str]:
        """Yield the documents as text. A chat becomes the contents of its messages, without roles."""
        for document in self.documents():
            yield document if isinstance(document, str) else "\n".join(message_texts(document))


def message_texts(messages: Sequence[Message]) -> Iterator[str]:
    """Yield the texts of a chat's messages. A message may have no content, or a list of parts, some of them text."""
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            yield content
        elif content is not None:
            yield from (
                part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)
            )


def document_hash(document: Document) -> int:
    """Return a hash of the text of a document, below 2 ** HASH_BITS."""
    text = document if isinstance(document, str) else "\0".join(message_texts(document))
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=HASH_BITS // 8).digest(), "big")


class CorpusDigest:
    """A digest of the documents read so far, in their order."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)

    def add(self, document: Document) -> None:
        """Take the next document into account."""
        text = document if isinstance(document, str) else repr([dict(message) for message in document])
        self._hash.update(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=HASH_BITS // 8).digest())

    def __str__(self) -> str:
        return self._hash.hexdigest()
