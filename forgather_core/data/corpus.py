"""What a dataset project gives: documents, each a text or the messages of a chat."""

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
        name: Project and configuration, for the report.
        documents: Starts from the first document each time it is called.
        columns: The names of the columns, with the types of what they hold.
        origin: Where they come from and how they are read, for the report.
    """

    name: str
    documents: Callable[[], Iterator[Document]]
    columns: Callable[[], dict[str, str]] = _one_text_column
    origin: Mapping[str, Any] | None = None

    def texts(self) -> Iterator[str]:
        """The documents as text: of a chat, what is said in it, without roles."""
        for document in self.documents():
            yield document if isinstance(document, str) else "\n".join(spoken(document))


def spoken(messages: Sequence[Message]) -> Iterator[str]:
    """The texts of a chat's messages. A message may have none, or parts of which some are text."""
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            yield content
        elif content is not None:
            yield from (
                part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)
            )
