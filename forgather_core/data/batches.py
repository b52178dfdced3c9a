"""Documents become batches: each in a row of its own, or several packed into one. Random tokens for want of documents.

Shapes: B rows, T tokens a row. All tensors are int64, on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .packing import Ints, Strategy, packed

WINDOW = 32  # batches: more fill rows no better, and the first batch waits for the whole of the first window
WIDEST = 1 << 20  # tokens of a window that has more than one batch
MOST_SHORT = 100_000  # documents of less than two tokens in a row, after which a stream is taken to have no others
IGNORE = -100  # transformers' loss leaves out targets of this value


class Batch(NamedTuple):
    """What a model is called with.

    Args:
        inputs: The keyword arguments, [B, T] each.
        tokens: How many of the B x T tokens are text: padding is not counted.
    """

    inputs: dict[str, Tensor]
    tokens: int


def padded_batches(documents: Iterable[Sequence[int]], rows: int, length: int, pad_id: int) -> Iterator[Batch]:
    """One document a row: cut at `length`, padded on the right.

    Args:
        documents: Token ids. Those of less than two are left out: one token has no successor to predict. A last batch
            that is not full is dropped.
        rows: B.
        length: T.
        pad_id: Fills a row up; `attention_mask` is 0 there, and labels are -100.

    Yields:
        `input_ids`, `attention_mask` and `labels`.

    Raises:
        DataError: A long run of documents has less than two tokens each.
    """
    waiting: list[Tensor] = []
    for document in _of_two_tokens(documents):
        waiting.append(torch.tensor(document[:length]))
        if len(waiting) == rows:
            lengths = torch.tensor([len(row) for row in waiting])
            mask = torch.arange(length) < lengths[:, None]
            ids = torch.full((rows, length), pad_id)
            ids[mask] = torch.cat(waiting)
            inputs = {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, IGNORE)}
            yield Batch(inputs, int(lengths.sum()))
            waiting = []


def packed_batches(
    documents: Iterable[Sequence[int]], rows: int, length: int, *, strategy: Strategy = "greedy", pad_id: int = 0
) -> Iterator[Batch]:
    """Documents side by side in rows: positions restart at each, by which models keep them apart.

    The first token of each is no target, so that no document predicts another.

    `greedy` puts them end to end, without padding; what does not fit a row goes on in the next, as a document of its
    own. The other two cut only documents that are longer than a row, into pieces of a row's length and a rest:
    `first-fit` puts each into the first row that has room, in the order in which they come; `best-fit` puts the longest
    first, each into the row that it fills best. What stays empty at the end of a row is a document of padding, which is
    no target.

    Args:
        documents: Token ids. Those of less than two are left out: one token has no successor to predict. For the same
            reason no document is cut right before its last token, but at the one before; only `greedy`, which cuts
            where rows end, may leave a token alone. In the end, less than a batch is dropped: the emptiest rows.
        rows: B.
        length: T.
        strategy: How rows are filled.
        pad_id: Fills a row up.

    Yields:
        `input_ids`, `position_ids` and `labels`.

    Raises:
        DataError: A long run of documents has less than two tokens each.
    """
    batch = rows * length
    wanted = batch if strategy == "greedy" else max(batch, min(batch * WINDOW, WIDEST))
    ids, lengths = np.empty(0, np.int64), np.empty(0, np.int64)
    for window in _windows(documents, wanted):
        new = np.fromiter(map(len, window), np.int64, len(window))
        ids = np.concatenate([ids, np.fromiter(chain.from_iterable(window), np.int64, int(new.sum()))])
        lengths, places = packed(np.concatenate([lengths, new]), rows, length, strategy)
        goes = places >= 0
        tokens = np.repeat(goes, lengths)
        yield from _assembled(ids[tokens], lengths[goes], places[goes], rows, length, pad_id)
        ids, lengths = ids[~tokens], lengths[~goes]


def _of_two_tokens(documents: Iterable[Sequence[int]]) -> Iterator[Sequence[int]]:
    """Yield the documents that have at least two tokens.

    Raises:
        DataError: A long run of documents has none: a stream without end would never fill a row.
    """
    short = 0
    for document in documents:
        if len(document) > 1:
            short = 0
            yield document
            continue
        short += 1
        if short == MOST_SHORT:
            raise DataError(
                f"{short:,} documents in a row have less than two tokens, which leaves nothing to predict: "
                "use another dataset or tokenizer"
            )


def _windows(documents: Iterable[Sequence[int]], tokens: int) -> Iterator[list[Sequence[int]]]:
    """Lists of documents that have so many tokens together, the last one fewer."""
    window: list[Sequence[int]] = []
    count = 0
    for document in _of_two_tokens(documents):
        window.append(document)
        count += len(document)
        if count >= tokens:
            yield window
            window, count = [], 0
    if window:
        yield window


def _assembled(ids: Ints, lengths: Ints, places: Ints, rows: int, length: int, pad_id: int) -> Iterator[Batch]:
    """Assemble rows, of which there is a multiple of B, and hand them on in batches.

    Args:
        ids: The tokens of all pieces, end to end.
        lengths: Of each piece, [P].
        places: The row of each piece, [P].
        rows: B.
        length: T.
        pad_id: Fills a row up.
    """
    filled = np.bincount(places, lengths).astype(np.int64)
    # Of pieces, in the order of their rows: what stands before each, in its row.
    order = np.argsort(places, kind="stable")
    sizes = lengths[order]
    before = np.cumsum(sizes) - sizes - (np.cumsum(filled) - filled)[places[order]]
    starts = np.empty_like(lengths)
    starts[order] = before + places[order] * length
    within = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    targets = np.repeat(starts, lengths) + within

    input_ids = np.full((len(filled), length), pad_id)
    labels = np.full_like(input_ids, IGNORE)
    position_ids = np.maximum(np.arange(length) - filled[:, None], 0)
    input_ids.flat[targets] = ids
    labels.flat[targets] = ids
    labels.flat[starts] = IGNORE
    position_ids.flat[targets] = within
    tensors = {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}
    for at in range(0, len(filled), rows):
        batch = {name: torch.from_numpy(values[at : at + rows]) for name, values in tensors.items()}
        yield Batch(batch, int(filled[at : at + rows].sum()))


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
