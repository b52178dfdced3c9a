"""Documents become batches: each in a row of its own, or packed end to end. Random tokens for want of documents.

Shapes: B rows, T tokens a row. All tensors are int64, on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

IGNORE = -100  # transformers' loss leaves out targets of this value
Batch = dict[str, Tensor]


def padded_batches(documents: Iterable[Sequence[int]], rows: int, length: int, pad_id: int) -> Iterator[Batch]:
    """One document a row: cut at `length`, padded on the right.

    Args:
        documents: Token ids; empty ones are left out. A last batch that is not full is dropped.
        rows: B.
        length: T.
        pad_id: Fills a row up; `attention_mask` is 0 there, and labels are -100.

    Yields:
        `input_ids`, `attention_mask` and `labels`, [B, T] each.
    """
    waiting: list[Tensor] = []
    for document in documents:
        if len(document) > 1:  # one token has no successor to predict
            waiting.append(torch.tensor(document[:length]))
        if len(waiting) == rows:
            lengths = torch.tensor([len(row) for row in waiting])
            mask = torch.arange(length) < lengths[:, None]
            ids = torch.full((rows, length), pad_id)
            ids[mask] = torch.cat(waiting)
            yield {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, IGNORE)}
            waiting = []


def packed_batches(documents: Iterable[Sequence[int]], rows: int, length: int) -> Iterator[Batch]:
    """Documents end to end, no padding. What does not fit a row goes on in the next, as a document of its own.

    Positions restart at each document, by which models keep them apart; the first token of each is no target, so that
    no document predicts another.

    Args:
        documents: Token ids. What does not fill a last batch is dropped.
        rows: B.
        length: T.

    Yields:
        `input_ids`, `position_ids` and `labels`, [B, T] each.
    """
    ids: list[int] = []
    starts: list[int] = []
    for document in documents:
        if len(document) > 1:
            starts.append(len(ids))
            ids.extend(document)
        while len(ids) >= rows * length:
            yield _pack(torch.tensor(ids[: rows * length]), starts, rows, length)
            ids = ids[rows * length :]
            starts = [start - rows * length for start in starts if start >= rows * length]


def _pack(ids: Tensor, starts: Sequence[int], rows: int, length: int) -> Batch:
    begins = torch.zeros(rows * length, dtype=torch.bool)
    begins[torch.tensor([start for start in starts if start < len(ids)], dtype=torch.long)] = True
    begins[::length] = True
    steps = torch.arange(rows * length)
    positions = steps - torch.where(begins, steps, 0).cummax(0).values
    shape = (rows, length)
    labels = ids.masked_fill(begins, IGNORE).view(shape)
    return {"input_ids": ids.view(shape), "position_ids": positions.view(shape), "labels": labels}


def random_documents(vocab_size: int, length: int, *, seed: int, packed: bool = False) -> Iterator[Sequence[int]]:
    """Documents of random tokens without end, uniform over the vocabulary.

    Args:
        vocab_size: Ids are below it.
        length: Of each document; with `packed`, the mean of random lengths is about half of it.
        seed: Equal seeds give equal documents.
        packed: Whether lengths differ.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        size = int(torch.randint(2, length + 1, (), generator=generator)) if packed else length
        document: list[int] = torch.randint(vocab_size, (size,), generator=generator).tolist()
        yield document
