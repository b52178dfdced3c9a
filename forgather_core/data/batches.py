"""Batches of documents, one per row with padding or several packed into a row, and random documents.

Shapes: B rows, T tokens per row. All tensors are int64, on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .packing import Ints, Strategy, assign_rows, cut_long, first_fit

WINDOW_BATCHES = 32  # batches packed at a time; a larger window does not fill rows better and delays the first batch
MAX_WINDOW_TOKENS = 1 << 20  # largest window of more than one batch, in tokens
MAX_SHORT_DOCUMENTS = 100_000  # consecutive documents of fewer than two tokens after which a stream is rejected
IGNORE_INDEX = -100  # label that transformers' loss ignores


class Batch(NamedTuple):
    """Inputs of a model.

    Args:
        inputs: Keyword arguments of the model, [B, T] each.
        tokens: Number of tokens without padding.
    """

    inputs: dict[str, Tensor]
    tokens: int


def padded_batches(documents: Iterable[Sequence[int]], rows: int, length: int, pad_id: int) -> Iterator[Batch]:
    """Yield batches with one document per row, truncated to `length` and padded on the right.

    Args:
        documents: Token ids. Documents of fewer than two tokens are skipped: a single token has no successor to
            predict. An incomplete last batch is dropped.
        rows: Batch size B.
        length: Sequence length T.
        pad_id: Token id of padding; `attention_mask` is 0 and labels are -100 there.

    Yields:
        Batches of `input_ids`, `attention_mask` and `labels`.

    Raises:
        DataError: Too many consecutive documents have fewer than two tokens.
    """
    waiting: list[Tensor] = []
    for document in _two_tokens_or_more(documents):
        waiting.append(torch.tensor(document[:length]))
        if len(waiting) == rows:
            lengths = torch.tensor([len(row) for row in waiting])
            mask = torch.arange(length) < lengths[:, None]
            ids = torch.full((rows, length), pad_id)
            ids[mask] = torch.cat(waiting)
            inputs = {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, IGNORE_INDEX)}
            yield Batch(inputs, int(lengths.sum()))
            waiting = []


def packed_batches(
    documents: Iterable[Sequence[int]], rows: int, length: int, *, strategy: Strategy = "greedy", pad_id: int = 0
) -> Iterator[Batch]:
    """Yield batches of packed rows: several documents per row, with positions that restart at each document.

    Models separate the documents by their positions. The first token of a document is not a target, so no document
    predicts another one.

    `greedy` concatenates documents without padding; a document that crosses the end of a row continues in the next row
    as a document of its own. The other strategies cut only documents that are longer than a row, into pieces of a full
    row and a remainder. `first-fit` places each piece in the first row with enough room, in input order. `best-fit`
    places the longest pieces first, each in the row with the least sufficient room. The unused end of a row is a
    document of padding without targets.

    Args:
        documents: Token ids. Documents of fewer than two tokens are skipped: a single token has no successor to
            predict. For the same reason no cut leaves a last piece of a single token, except with `greedy`, which cuts
            at the end of rows. At the end, an incomplete batch of the emptiest rows is dropped.
        rows: Batch size B.
        length: Sequence length T.
        strategy: Packing strategy.
        pad_id: Token id of padding.

    Yields:
        Batches of `input_ids`, `position_ids` and `labels`.

    Raises:
        DataError: Too many consecutive documents have fewer than two tokens.
    """
    packer = Packer(rows, length, strategy=strategy, pad_id=pad_id)
    for window in windows(documents, packer.window_tokens):
        yield from packer.add(window)


class Packer:
    """Pack windows of documents into batches.

    Pieces that do not fill a batch are kept for the next window.

    Args:
        rows: Batch size B.
        length: Sequence length T.
        strategy: See `packed_batches`.
        pad_id: Token id of padding.

    Attributes:
        window_tokens: Minimum number of tokens of a window. A smaller window leaves more of each row unused.
        remainder: Token ids of the pieces kept for the next window, concatenated, and the length of each piece.
    """

    def __init__(self, rows: int, length: int, *, strategy: Strategy = "greedy", pad_id: int = 0) -> None:
        self.rows, self.length, self.strategy, self.pad_id = rows, length, strategy, pad_id
        batch = rows * length
        window = batch if strategy == "greedy" else batch * WINDOW_BATCHES
        self.window_tokens = max(batch, min(window, MAX_WINDOW_TOKENS))
        self.remainder: tuple[Ints, Ints] = np.empty(0, np.int64), np.empty(0, np.int64)

    def add(self, window: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Yield the batches that a window of documents completes."""
        ids, lengths = self.remainder
        new = np.fromiter(map(len, window), np.int64, len(window))
        ids = np.concatenate([ids, np.fromiter(chain.from_iterable(window), np.int64, int(new.sum()))])
        lengths, row_of = assign_rows(np.concatenate([lengths, new]), self.rows, self.length, self.strategy)
        placed = row_of >= 0
        tokens = np.repeat(placed, lengths)
        self.remainder = ids[~tokens], lengths[~placed]
        yield from _assemble_batches(ids[tokens], lengths[placed], row_of[placed], self.rows, self.length, self.pad_id)


def all_batches(documents: Iterable[Sequence[int]], rows: int, length: int, *, pad_id: int = 0) -> list[Batch]:
    """Pack all documents into batches; the last batch may have fewer rows.

    Args:
        documents: Token ids. Documents longer than a row are cut; documents of a single token are skipped.
        rows: Batch size B.
        length: Sequence length T.
        pad_id: Token id of padding.
    """
    kept = [document for document in documents if len(document) > 1]
    if not kept:
        return []
    ids = np.fromiter(chain.from_iterable(kept), np.int64)
    lengths = cut_long(np.array([len(document) for document in kept], np.int64), length)
    row_of = np.array(first_fit(lengths.tolist(), length), np.int64)
    return list(_assemble_batches(ids, lengths, row_of, rows, length, pad_id))


def _two_tokens_or_more(documents: Iterable[Sequence[int]]) -> Iterator[Sequence[int]]:
    """Yield the documents that have at least two tokens.

    Raises:
        DataError: Too many consecutive documents are shorter. An endless stream of them would never fill a row.
    """
    short = 0
    for document in documents:
        if len(document) > 1:
            short = 0
            yield document
            continue
        short += 1
        if short == MAX_SHORT_DOCUMENTS:
            problem = f"{short:,} consecutive documents have fewer than two tokens, which leaves nothing to predict"
            raise DataError(problem, hint="use another --dataset-project or --tokenizer")


def windows(documents: Iterable[Sequence[int]], tokens: int) -> Iterator[list[Sequence[int]]]:
    """Yield lists of documents with at least `tokens` tokens each; the last list may have fewer."""
    window: list[Sequence[int]] = []
    count = 0
    for document in _two_tokens_or_more(documents):
        window.append(document)
        count += len(document)
        if count >= tokens:
            yield window
            window, count = [], 0
    if window:
        yield window


def _assemble_batches(ids: Ints, lengths: Ints, row_of: Ints, rows: int, length: int, pad_id: int) -> Iterator[Batch]:
    """Yield batches assembled from pieces; the number of rows is a multiple of B.

    Args:
        ids: Tokens of all pieces, concatenated.
        lengths: Length of each piece, [P].
        row_of: Row of each piece, [P].
        rows: Batch size B.
        length: Sequence length T.
        pad_id: Token id of padding.
    """
    filled = np.bincount(row_of, lengths).astype(np.int64)
    # Offset of each piece in its row, by pieces sorted by row.
    order = np.argsort(row_of, kind="stable")
    sizes = lengths[order]
    before = np.cumsum(sizes) - sizes - (np.cumsum(filled) - filled)[row_of[order]]
    starts = np.empty_like(lengths)
    starts[order] = before + row_of[order] * length
    within = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    targets = np.repeat(starts, lengths) + within

    input_ids = np.full((len(filled), length), pad_id)
    labels = np.full_like(input_ids, IGNORE_INDEX)
    position_ids = np.maximum(np.arange(length) - filled[:, None], 0)
    input_ids.flat[targets] = ids
    labels.flat[targets] = ids
    labels.flat[starts] = IGNORE_INDEX
    position_ids.flat[targets] = within
    tensors = {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}
    for at in range(0, len(filled), rows):
        batch = {name: torch.from_numpy(values[at : at + rows]) for name, values in tensors.items()}
        yield Batch(batch, int(filled[at : at + rows].sum()))


def random_documents(vocab_size: int, length: int, *, seed: int, packed: bool = False) -> Iterator[Sequence[int]]:
    """Yield an endless stream of random documents, with tokens drawn uniformly from the vocabulary.

    Args:
        vocab_size: Upper bound of the token ids.
        length: Length of each document.
        seed: Equal seeds give equal documents.
        packed: Draw random lengths up to `length`, with a mean of about half of it.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        size = int(torch.randint(2, length + 1, (), generator=generator)) if packed else length
        document: list[int] = torch.randint(vocab_size, (size,), generator=generator).tolist()
        yield document
