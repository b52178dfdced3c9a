"""An endless stream of packed rows that can continue at any batch, as the data of a training run.

Shapes: B rows per batch, T tokens per row.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..errors import DataError
from .batches import Packer, windows
from .corpus import Corpus, CorpusDigest
from .packing import Strategy
from .tokenized import no_text, token_ids

_REMEMBERED = 16  # batches; a trainer fetches a few batches ahead


class PackedStream(IterableDataset[dict[str, Tensor]]):
    """Rows of packed documents, tokenized on demand, in an endless loop over a corpus.

    Args:
        corpus: The documents; they have the same order in every pass.
        tokenizer: A transformers tokenizer.
        rows: Rows per batch B, over all processes and accumulation steps: positions count whole batches.
        length: Sequence length T.
        strategy: See `packed_batches`.
        pad_id: Token id of padding.
        position: Start position, from `position_after`; None is the beginning.

    Yields:
        `input_ids`, `position_ids` and `labels` of a row, [T] each.

    Raises:
        DataError: The corpus has no text, the documents before `position` have changed, or the tokenizer has no chat
            template that accepts its chats.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Any,
        rows: int,
        length: int,
        *,
        strategy: Strategy = "greedy",
        pad_id: int = 0,
        position: Mapping[str, Any] | None = None,
    ) -> None:
        self.corpus, self.tokenizer, self.rows = corpus, tokenizer, rows
        self._new_packer: Callable[[], Packer] = lambda: Packer(rows, length, strategy=strategy, pad_id=pad_id)
        self._begin = dict(position or _BEGINNING)
        self._positions: OrderedDict[int, dict[str, Any]] = OrderedDict({self._begin["batch"]: self._begin})

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if get_worker_info() is not None:
            raise DataError("PackedStream does not support worker processes", hint="set dataloader_num_workers to 0")
        begin, packer = self._begin, self._new_packer()
        packer.remainder = np.array(begin["ids"], np.int64), np.array(begin["lengths"], np.int64)
        number, skip = begin["batch"], begin["batches_of_window"]
        documents = _Documents(self.corpus, self.tokenizer, begin)
        window_begin = {name: begin[name] for name in ("pass", "document", "ids", "lengths")}
        for window in windows(documents, packer.window_tokens):
            read = documents.read()
            for of_window, batch in enumerate(packer.add(window)):
                if of_window < skip:
                    continue
                number += 1
                self._remember({**window_begin, "read": read, "batch": number, "batches_of_window": of_window + 1})
                yield from _rows(batch.inputs)
            skip = 0
            ids, lengths = packer.remainder
            window_begin = {
                "pass": documents.passes,
                "document": documents.count,
                "ids": ids.tolist(),
                "lengths": lengths.tolist(),
            }
            # A run that continues here does not need the previous window.
            self._remember({**window_begin, "read": read, "batch": number, "batches_of_window": 0})

    def position_after(self, batches: int) -> dict[str, Any]:
        """Return the position after a number of batches, counted from the beginning of the stream.

        Raises:
            KeyError: The batch is not one of the last ones that were read.
        """
        return self._positions[batches]

    def _remember(self, position: dict[str, Any]) -> None:
        self._positions[position["batch"]] = position
        while len(self._positions) > _REMEMBERED:
            self._positions.popitem(last=False)


_BEGINNING: dict[str, Any] = {
    "pass": 0,
    "document": 0,
    "read": None,
    "ids": [],
    "lengths": [],
    "batch": 0,
    "batches_of_window": 0,
}
POSITION_KEYS = frozenset(_BEGINNING)


class _Documents:
    """Token ids of documents, in an endless loop that starts at any document.

    Args:
        corpus: The documents.
        tokenizer: A transformers tokenizer.
        begin: The position at which to start. `begin["read"]` identifies the documents read before it: the pass, the
            number of documents read in this pass, their digest, and the digest of a complete pass if there was one.

    Attributes:
        passes: Number of completed passes over the corpus.
        count: Number of documents read in this pass.
    """

    def __init__(self, corpus: Corpus, tokenizer: Any, begin: Mapping[str, Any]) -> None:
        self._corpus, self._tokenizer = corpus, tokenizer
        self._expected: Mapping[str, Any] = begin["read"] or {"pass": -1, "whole": None}
        self.passes, self.count = begin["pass"], begin["document"]
        self._digest = CorpusDigest()
        self._whole: str | None = self._expected["whole"]

    def read(self) -> dict[str, Any]:
        """Return the value of `read` in a position: the pass, the number of documents read in it, and the digests."""
        return {"pass": self.passes, "document": self.count, "digest": str(self._digest), "whole": self._whole}

    def __iter__(self) -> Iterator[Sequence[int]]:
        skip = self.count
        if self._whole is not None:
            self._check(self._whole, _digest_of(self._corpus))
        while True:
            self.count, self._digest = 0, CorpusDigest()
            for document in self._corpus.documents():
                self.count += 1
                self._digest.add(document)
                if (self.passes, self.count) == (self._expected["pass"], self._expected.get("document")):
                    self._check(self._expected["digest"], str(self._digest))
                if self.count > skip:
                    yield token_ids(document, self._tokenizer)
            if self.count == 0:
                raise no_text(self._corpus)
            if self.passes == self._expected["pass"] and self.count < self._expected["document"]:
                self._check(self._expected["digest"], str(self._digest))
            skip = 0
            self.passes += 1
            self._whole = str(self._digest)

    def _check(self, expected: str, found: str) -> None:
        """Raise a DataError if the documents differ from those read before the checkpoint."""
        if found != expected:
            problem = f"{self._corpus.name} has changed since the checkpoint: the documents before it are different"
            raise DataError(problem, hint="restore the data, or begin a new run")


def _digest_of(corpus: Corpus) -> str:
    digest = CorpusDigest()
    for document in corpus.documents():
        digest.add(document)
    return str(digest)


def _rows(inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for row in range(len(next(iter(inputs.values())))):
        yield {name: values[row] for name, values in inputs.items()}
