"""Texts of a case: documents, padding and positions."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from forgather_core.checks.covering.factors import FACTORS, PLAIN, Case
from forgather_core.checks.covering.layout import Layout, layout_of
from forgather_core.checks.covering.rules import violated

PAD = 0
OF_TEXTS = ("length", "rows", "padding", "packing")
LEVELS = [factor.levels for factor in FACTORS if factor.name in OF_TEXTS]
NEEDED = {"mask": "2d", "positions": "given"}  # by padding and packing
CASES = [
    case
    for levels in product(*LEVELS)
    if violated(case := {**PLAIN, **NEEDED, **dict(zip(OF_TEXTS, levels, strict=True))}) is None
]


def layout(case: Case) -> Layout:
    def tokens(rows: int, length: int) -> Tensor:
        return torch.arange(1, rows * length + 1).view(rows, length)

    return layout_of(case, tokens, PAD)


@pytest.mark.parametrize("rows", ["one", "equal", "unequal", "single-token"])
def test_every_token_is_in_one_document(rows: str) -> None:
    for case in CASES:
        if case["rows"] != rows:
            continue
        found = layout(case)
        seen = torch.zeros_like(found.ids)
        for one in found.documents:
            seen[one.row, one.columns] += 1
            assert torch.equal(found.ids[one.row, one.columns], one.tokens)
            assert torch.equal(found.positions[one.row, one.columns], torch.arange(len(one.tokens)))
            assert torch.equal(one.targets, (one.columns[1:] == one.columns[:-1] + 1).nonzero().flatten() + 1)
        assert torch.equal(seen, found.real.long())
        assert torch.equal(found.ids == PAD, ~found.real)
        assert bool(found.real.all()) == (case["padding"] == "none")


def test_the_place_of_padding() -> None:
    expected = {
        "left": [0, 0, 0, 1, 1, 1, 1, 1],
        "right": [1, 1, 1, 1, 1, 0, 0, 0],
        "both": [0, 1, 1, 1, 1, 1, 0, 0],
        "middle": [1, 1, 0, 0, 0, 1, 1, 1],
    }
    for padding, real in expected.items():
        case = {**PLAIN, **NEEDED, "padding": padding, "length": "5"}
        assert layout(case).real.long().tolist() == [real]


def test_documents_of_a_packed_row() -> None:
    found = layout({**PLAIN, **NEEDED, "packing": "position-ids", "length": "7", "padding": "right"})
    assert found.positions.tolist() == [[0, 1, 2, 0, 0, 1, 2, 0, 1, 2]]
    assert found.document_of().tolist() == [[0, 0, 0, 1, 2, 2, 2, -1, -1, -1]]
