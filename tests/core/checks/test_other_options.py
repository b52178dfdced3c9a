"""other-options finds mistakes in features that are off by default, and names the option."""

from __future__ import annotations

from pathlib import Path

import pytest

from forgather_core.checks.other_options import _other_values, other_options
from forgather_core.checks.try_check import PASSED, SKIPPED
from tests.mutants.apply import Originals, mutated
from tests.mutants.catalogue import named
from tests.support.settings import Resolve, small

from .planted import edited_row, edited_subject, failures, gpt2_row, row_of

__all__ = ["small"]

WINDOW = "sliding_window"


def test_options_get_other_values_that_are_valid_together(small: Resolve, tmp_path: Path) -> None:
    subject = edited_subject(small, tmp_path)
    found = _other_values(subject)
    assert found[WINDOW] == 8
    assert {"head_dim", "num_attention_heads", "rms_norm_eps", "tie_word_embeddings"} <= found.keys()
    assert not {"hidden_size", "vocab_size"} & found.keys()
    config = subject.config()
    assert all(getattr(config, name) != value for name, value in found.items())


@pytest.mark.slow
def test_a_correct_model_passes(small: Resolve, tmp_path: Path) -> None:
    row = edited_row(other_options, small, tmp_path)
    assert row["result"] == PASSED, [one for one in row["measured"] if not one["holds"]]
    assert len(row["measured"]) == 35  # usual calls, and one row for each check


@pytest.mark.slow
def test_the_option_is_named(tmp_path: Path) -> None:
    mutant, originals = named("sliding-cache-offset-lost-in-alibi"), Originals(tmp_path)
    found = failures(row_of(mutated(mutant, originals.of(mutant), tmp_path), other_options, tmp_path))
    assert all(text.startswith(f"{WINDOW}=8: ") for text in found)


def test_a_model_without_options_is_skipped(tmp_path: Path) -> None:
    row = gpt2_row(other_options, tmp_path)
    assert row["result"] == SKIPPED
    assert row["reason"] == "no option has another value that is valid with the others"
