"""Assign documents to rows for packing.

Shapes: P pieces (documents, or parts of documents longer than a row), T tokens per row. A window of documents is packed
at a time; rows that do not fill a batch of B are packed again with the next window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Strategy = Literal["greedy", "first-fit", "best-fit"]

Ints = NDArray[np.int64]


def assign_rows(lengths: Ints, rows: int, length: int, strategy: Strategy) -> tuple[Ints, Ints]:
    """Cut documents into pieces and assign each piece a row.

    Args:
        lengths: Lengths of the documents.
        rows: Batch size B.
        length: Sequence length T.
        strategy: Packing strategy, see `packed_batches`.

    Returns:
        The lengths of the pieces [P] and the row of each piece [P]. The number of rows is a multiple of B, and
        rows are numbered by their first document; -1 means that the piece is kept for the next window.
    """
    greedy = strategy == "greedy"
    pieces = _cut_at_row_ends(lengths, length) if greedy else cut_long(lengths, length)
    if greedy:
        row_of = (np.cumsum(pieces) - 1) // length
    else:
        fit = first_fit if strategy == "first-fit" else best_fit
        row_of = np.array(fit(pieces.tolist(), length), np.int64)
    # The emptiest rows are packed again with the next window. With greedy, only the last row can be incomplete.
    filled = np.bincount(row_of, pieces)
    full = int(np.count_nonzero(filled == length)) if greedy else len(filled)
    used = np.lexsort((np.arange(len(filled)), -filled))[: full // rows * rows]
    first = np.unique(row_of, return_index=True)[1]
    numbers = np.full(len(filled), -1)
    numbers[used[np.argsort(first[used])]] = np.arange(len(used))
    return pieces, numbers[row_of]


def _cut_at_row_ends(lengths: Ints, length: int) -> Ints:
    total = int(lengths.sum())
    starts = np.union1d(np.cumsum(lengths) - lengths, np.arange(0, total, length))
    return np.diff(starts, append=total)


def cut_long(lengths: Ints, length: int) -> Ints:
    """Cut documents that are longer than a row and return the lengths of all pieces. No cut leaves a single token."""
    counts = -(-lengths // length)
    last = np.cumsum(counts) - 1
    pieces = np.full(int(counts.sum()), length)
    pieces[last] = lengths - (counts - 1) * length
    alone = last[(pieces[last] == 1) & (counts > 1)]
    pieces[alone] += 1
    pieces[alone - 1] -= 1
    return pieces


def first_fit(lengths: Sequence[int], length: int) -> list[int]:
    """Return the row of each piece: the first row with enough room.

    Args:
        lengths: Lengths of the pieces, at most `length`.
        length: Sequence length T.
    """
    room: list[int] = []
    first = [0] * (length + 1)  # by size, the first row that may have room: rows only get fuller
    row_of = []
    for size in lengths:
        row = first[size]
        while row < len(room) and room[row] < size:
            row += 1
        if row == len(room):
            room.append(length)
        room[row] -= size
        first[size] = row
        row_of.append(row)
    return row_of


def best_fit(lengths: Sequence[int], length: int) -> list[int]:
    """Return the row of each piece, longest first: the row with the least sufficient room.

    Args:
        lengths: Lengths of the pieces, at most `length`.
        length: Sequence length T.
    """
    rooms = 0  # bit n is set if a row has room for exactly n tokens
    with_room: list[list[int]] = [[] for _ in range(length + 1)]
    row_of = [0] * len(lengths)
    count = 0
    for piece in np.argsort(-np.array(lengths, np.int64), kind="stable").tolist():
        size = lengths[piece]
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, row, count = length, count, count + 1
        row_of[piece] = row
        left = room - size
        if left:
            with_room[left].append(row)
            rooms |= 1 << left
    return row_of
