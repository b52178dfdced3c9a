"""Tokens are replaced by other ones, whatever the seed is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from forgather_core.checks.causality import _replacement, causality
from forgather_core.checks.try_check import PASSED, try_check
from tests.support.settings import Resolve

from .planted import edited_subject, failures


@pytest.mark.parametrize("position", [1, 10])
def test_the_first_token_is_another_one(position: int, small: Resolve, tmp_path: Path) -> None:
    subject = edited_subject(small, tmp_path)
    for seed in range(300):  # one of 259 tokens is the same by chance
        subject.seed = seed
        text = subject.tokens(2)
        found = _replacement(subject, text[:, position:], position)
        assert found.shape == text[:, position:].shape
        assert bool((found[:, 0] != text[:, position]).all())
        assert torch.equal(found, _replacement(subject, text[:, position:], position))


def test_an_equal_token_is_no_false_alarm(small: Resolve, tmp_path: Path) -> None:
    subject = edited_subject(small, tmp_path)

    def draws_an_equal_token(seed: int) -> bool:
        subject.seed = seed
        text = subject.tokens(2)
        return bool((subject.tokens(2, text.shape[1] - 1, seed=1)[:, 0] == text[:, 1]).any())

    assert any(map(draws_an_equal_token, range(1000)))  # it sets the seed
    row = try_check(causality, subject)
    assert row["result"] == PASSED, failures(row)
