"""Hold out a part of a corpus for evaluation: whole documents, chosen by their text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from ..errors import DataError
from .corpus import HASH_BITS, Corpus, Document, document_hash
from .tokenized import no_text

_SCANNED = 10_000  # documents; a larger corpus has some below the threshold


@dataclass(frozen=True)
class Split:
    """A corpus in two parts. Equal documents are in the same part, so that no document is in both.

    Args:
        training: The part for training.
        held_out: The part for evaluation.
        note: A note if the only document was split, else None.
    """

    training: Corpus
    held_out: Corpus
    note: str | None = None


def split_corpus(corpus: Corpus, fraction: float) -> Split:
    """Split a corpus by document.

    A document is held out if a hash of its text is below a threshold, so that the parts stay the same when documents
    are added or reordered. If no hash is below it, the document with the smallest hash is held out. If the corpus is a
    single document, its end is held out.

    Args:
        corpus: The corpus.
        fraction: The fraction of the documents to hold out, above 0 and below 1.

    Raises:
        DataError: The corpus has no text.
    """
    threshold = int(fraction * 2**HASH_BITS)
    seen: set[int] = set()
    for document in islice(corpus.documents(), _SCANNED):
        seen.add(document_hash(document))
        if len(seen) > 1 and min(seen) < threshold <= max(seen):
            return _by_hash(corpus, threshold)
    if not seen:
        raise no_text(corpus)
    if len(seen) > 1:
        return _by_hash(corpus, min(seen) + 1)
    return _by_position(corpus, fraction)


def _by_hash(corpus: Corpus, threshold: int) -> Split:
    return Split(
        _part(corpus, "training part", lambda document: document_hash(document) >= threshold),
        _part(corpus, "held-out part", lambda document: document_hash(document) < threshold),
    )


def _part(corpus: Corpus, name: str, belongs: Callable[[Document], bool]) -> Corpus:
    def documents() -> Iterator[Document]:
        return (document for document in corpus.documents() if belongs(document))

    return replace(corpus, name=f"{corpus.name}, {name}", documents=documents)


def _by_position(corpus: Corpus, fraction: float) -> Split:
    """Split the single document: a text at the line end before the fraction, a chat between messages.

    Raises:
        DataError: The document is too short.
    """

    def cut(document: Document) -> int:
        at = min(int(len(document) * (1 - fraction)), len(document) - 1)
        return document.rfind("\n", 0, at) + 1 or at if isinstance(document, str) else at

    if any(cut(document) < 1 for document in corpus.documents()):
        raise DataError(f"{corpus.name} is too short to hold out a part", hint="use more text")

    def part(name: str, of: Callable[[Document], Document]) -> Corpus:
        def documents() -> Iterator[Document]:
            return (kept for document in corpus.documents() if (kept := of(document)))

        return replace(corpus, name=f"{corpus.name}, {name}", documents=documents)

    return Split(
        part("training part", lambda document: document[: cut(document)]),
        part("held-out part", lambda document: document[cut(document) :]),
        f"{corpus.name} has one document: its end is held out",
    )
