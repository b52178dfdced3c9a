"""Mistakes of models that Forgather wrote, and that checks allow in other classes."""

from __future__ import annotations

from pathlib import Path

from forgather_core.checks.covering.applicable import inapplicable_levels
from forgather_core.checks.hidden_states import hidden_states
from forgather_core.checks.try_check import FAILED, PASSED
from tests.support.settings import Resolve

from .planted import edited_row, edited_subject, failures

WEIGHTS = "weights_BHTS @ value_BHSK).transpose(1, 2).contiguous(), "


def test_a_correct_model_passes(small: Resolve, tmp_path: Path) -> None:
    row = edited_row(hidden_states, small, tmp_path)
    assert row["result"] == PASSED, failures(row)


def test_attention_weights_are_those_of_the_tokens(small: Resolve, tmp_path: Path) -> None:
    padded = ("self_attention.py", f"{WEIGHTS}weights_BHTS", f"{WEIGHTS}nn.functional.pad(weights_BHTS, (1, 0))")
    row = edited_row(hidden_states, small, tmp_path, padded)
    assert row["result"] == FAILED
    assert any("weights of later tokens are 0" in text for text in failures(row))


def test_logits_to_keep_are_checked_if_the_argument_has_another_name(small: Resolve, tmp_path: Path) -> None:
    renamed = ("language_model.py", "logits_to_keep", "num_logits_to_keep")
    subject = edited_subject(small, tmp_path, renamed)
    assert not any(level.startswith("logits_to_keep=") for level in inapplicable_levels(subject))
