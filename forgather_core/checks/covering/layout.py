"""The texts of a case: documents, and the rows of token ids that contain them.

Shapes: B rows, W columns; a document of n tokens has the columns [n] of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..shared.inputs import padding_id
from ..shared.model_under_test import ModelUnderTest
from .factors import Case

PADDING = 3  # columns of padding in the longest row


@dataclass(frozen=True)
class Document:
    """A document in a batch.

    Args:
        row: Its row.
        columns: The columns of its tokens, [n].
        tokens: Its token ids, [n].
    """

    row: int
    columns: Tensor
    tokens: Tensor

    @property
    def targets(self) -> Tensor:
        """The indices of tokens that are predicted in the batch: their predecessor is in the column before."""
        return 1 + (self.columns.diff() == 1).nonzero().flatten()


@dataclass(frozen=True)
class Layout:
    """Rows of documents.

    Args:
        ids: Token ids [B, W]; `pad_id` on padding.
        real: True on tokens, [B, W].
        positions: Position in the document, [B, W]; 1 on padding, as `generate()` makes it, and in packed rows the
            positions of a further document.
        documents: The documents, by row and column.
        special_ids: Token ids that occur in labels only: the end of a text, padding.
    """

    ids: Tensor
    real: Tensor
    positions: Tensor
    documents: tuple[Document, ...]
    special_ids: tuple[int, ...] = ()

    def document_of(self) -> Tensor:
        """Return the number of the document of each token, [B, W]; -1 on padding."""
        found = torch.full_like(self.ids, -1)
        for number, one in enumerate(self.documents):
            found[one.row, one.columns] = number
        return found


def layout_of(
    case: Case, tokens: Callable[[int, int], Tensor], pad_id: int, special_ids: tuple[int, ...] = ()
) -> Layout:
    """Return the texts of a case.

    Args:
        case: The levels of length, rows, padding and packing.
        tokens: Returns random token ids of a shape.
        pad_id: Token id of padding.
        special_ids: Token ids that the level "special" of labels adds.
    """
    length = int(case["length"])
    lengths = {
        "one": [length],
        "equal": [length] * 3,
        "unequal": [length, max(1, length // 2), max(1, length // 3)],
        "single-token": [length, 1],
    }[case["rows"]]
    width = length + (PADDING if case["padding"] != "none" else 0)
    ids, real = tokens(len(lengths), width), torch.zeros(len(lengths), width, dtype=torch.bool)
    positions = torch.ones(len(lengths), width, dtype=torch.long)
    documents = []
    for row, count in enumerate(lengths):
        columns = _columns(case["padding"], count, width)
        real[row, columns] = True
        sizes = _split(count) if case["packing"] != "none" else [count]
        for part in columns.split(sizes):  # type: ignore[no-untyped-call]
            positions[row, part] = torch.arange(len(part))
            documents.append(Document(row, part, ids[row, part].clone()))
        if case["packing"] != "none" and count < width:
            positions[row, count:] = torch.arange(width - count)
    return Layout(ids.masked_fill(~real, pad_id), real, positions, tuple(documents), special_ids)


def _columns(padding: str, count: int, width: int) -> Tensor:
    """Return the columns of the tokens of a row."""
    free = width - count
    begin = {"none": 0, "left": free, "right": 0, "both": free // 2, "middle": 0}[padding]
    columns = torch.arange(begin, begin + count)
    return torch.where(columns < count // 2, columns, columns + free) if padding == "middle" else columns


def _split(count: int) -> list[int]:
    """Return the lengths of the documents of a packed row, one of them a single token."""
    half = count // 2
    return [size for size in (half, 1, count - half - 1) if size > 0] if count > 2 else [count]


def layout_for(subject: ModelUnderTest, case: Case) -> Layout:
    """Return the rows of a case for a model."""
    special = tuple(sorted(one for one in subject.special_ids if one >= 0))
    return layout_of(case, subject.tokens, padding_id(subject), special)
