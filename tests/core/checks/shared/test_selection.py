"""Selections by top-k are recorded and repeated."""

from __future__ import annotations

from pathlib import Path

import torch

from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.checks.shared.selection import Selections, order_of_sums, same_selections, selects
from forgather_core.checks.shared.tolerance import rounding
from tests.support.remote_code import SMALL, write_remote_code


def subject_of(kind: str, place: Path) -> ModelUnderTest:
    (place / "work").mkdir()
    return ModelUnderTest(write_remote_code(kind, place / f"selecting_{kind}", **SMALL), place / "work")


def test_selections_are_repeated_with_the_current_scores() -> None:
    first, second = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[5.0, 4.0, 6.0]])
    with Selections() as selections:
        first.topk(2, dim=-1)
    with same_selections(selections.found):
        values, indices = second.topk(2, dim=-1)
    assert indices.tolist() == [[1, 2]]
    assert values.tolist() == [[4.0, 6.0]]
    assert second.topk(2).indices.tolist() == [[2, 0]]


def test_a_mixture_of_experts_selects(tmp_path: Path) -> None:
    subject = subject_of("mixtral", tmp_path)
    assert selects(subject)
    model = subject.randomized_model()
    assert order_of_sums(subject)(model) == rounding(model)


def test_a_dense_model_does_not(tmp_path: Path) -> None:
    subject = subject_of("llama", tmp_path)
    assert not selects(subject)
    assert order_of_sums(subject)(None) == 0
