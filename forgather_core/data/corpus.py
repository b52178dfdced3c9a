"""Documents of a dataset project: texts, or chats as lists of messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]  # with role and content
Document = str | Sequence[Message]


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
