"""Rows of packed documents, and the logits of each document alone."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .cases import made
from .tiny import tokens

# Two rows of three documents each; the third document of the second row is one token.
LENGTHS = [[7, 4, 6], [3, 13, 1]]
IDS = tokens(2, 17)
POSITIONS = torch.tensor([[p for n in row for p in range(n)] for row in LENGTHS])


@cache
@torch.no_grad()
def each_alone(case: str) -> Tensor:
    """Return the logits [2, 17, V] of all documents, each run alone without a cache."""
    model = made(case)
    rows = [
        torch.cat([model(piece[None], use_cache=False).logits[0] for piece in ids.split(lengths)])
        for ids, lengths in zip(IDS, LENGTHS, strict=True)
    ]
    return torch.stack(rows)
