"""Which document goes into which row, where several share one.

P pieces: documents, or parts of those that are longer than a row. T tokens a row. W rows of a window, which is what is
packed at a time; the rows that make no full batch of B are packed again with the next window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Strategy = Literal["greedy", "first-fit", "best-fit"]

Ints = NDArray[np.int64]


def packed(lengths: Ints, rows: int, length: int, strategy: Strategy) -> tuple[Ints, Ints]:
    """Cut documents and give each piece its row.

    Args:
        lengths: Of the documents.
        rows: B.
        length: T.
        strategy: As of `packed_batches`.

    Returns:
        The lengths of the pieces [P], and the row of each [P]: a multiple of B rows, in the order of the first document
        in each; -1 for those that wait for the next window.
    """
    greedy = strategy == "greedy"
    pieces = _cut_at_row_ends(lengths, length) if greedy else _cut_long(lengths, length)
    if greedy:
        places = (np.cumsum(pieces) - 1) // length
    else:
        fit = first_fit if strategy == "first-fit" else best_fit
        places = np.array(fit(pieces.tolist(), length), np.int64)
    # The emptiest rows wait, which may get fuller. Greedy ones are full but for the last, which must.
    filled = np.bincount(places, pieces)
    full = int(np.count_nonzero(filled == length)) if greedy else len(filled)
    kept = np.lexsort((np.arange(len(filled)), -filled))[: full // rows * rows]
    first = np.unique(places, return_index=True)[1]
    numbers = np.full(len(filled), -1)
    numbers[kept[np.argsort(first[kept])]] = np.arange(len(kept))
    return pieces, numbers[places]


def _cut_at_row_ends(lengths: Ints, length: int) -> Ints:
    total = int(lengths.sum())
    starts = np.union1d(np.cumsum(lengths) - lengths, np.arange(0, total, length))
    return np.diff(starts, append=total)


def _cut_long(lengths: Ints, length: int) -> Ints:
    counts = -(-lengths // length)
    last = np.cumsum(counts) - 1
    pieces = np.full(int(counts.sum()), length)
    pieces[last] = lengths - (counts - 1) * length
    alone = last[(pieces[last] == 1) & (counts > 1)]
    pieces[alone] += 1
    pieces[alone - 1] -= 1
    return pieces


def first_fit(lengths: Sequence[int], length: int) -> list[int]:
    """The row of each piece: the first that has room for it.

    Args:
        lengths: Of the pieces, none above `length`.
        length: T.
    """
    room: list[int] = []
    first = [0] * (length + 1)  # of each size, the first row that may have room: rows only ever get fuller
    places = []
    for size in lengths:
        row = first[size]
        while row < len(room) and room[row] < size:
            row += 1
        if row == len(room):
            room.append(length)
        room[row] -= size
        first[size] = row
        places.append(row)
    return places


def best_fit(lengths: Sequence[int], length: int) -> list[int]:
    """The row of each piece, the longest placed first: the one that is fuller than all others that have room for it.

    Args:
        lengths: Of the pieces, none above `length`.
        length: T.
    """
    rooms = 0  # bit n is set where a row has room for exactly n
    with_room: list[list[int]] = [[] for _ in range(length + 1)]
    places = [0] * len(lengths)
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
        places[piece] = row
        rest = room - size
        if rest:
            with_room[rest].append(row)
            rooms |= 1 << rest
    return places
