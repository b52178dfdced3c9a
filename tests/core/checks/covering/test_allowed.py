"""The allowed error of a case is measured on models that amplify rounding, and is bounded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from forgather_core.checks.covering.agreement import Agreement
from forgather_core.checks.covering.allowed import Allowed
from forgather_core.checks.covering.factors import Case
from forgather_core.checks.shared.compared_gradients import MAX_AMPLIFIED
from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.checks.shared.tolerance import rounding
from tests.support.remote_code import SMALL, Edit, write_remote_code

LOGITS = "logits = self.lm_head(hidden_states)"


def allowed_by(place: Path, kind: str = "llama", factor: float = 0.0, *more: Edit) -> tuple[Allowed, Case, float]:
    """Return the allowed errors of a model whose logits are the sine of large numbers, the plain case and rounding."""
    edits = [*more, *([(LOGITS, f"logits = torch.sin({factor} * self.lm_head(hidden_states))")] if factor else [])]
    directory = write_remote_code(kind, place / f"amplifying_{kind}_{factor:.0f}", edits, **SMALL)
    (place / "work").mkdir()
    agreement = Agreement(ModelUnderTest(directory, place / "work"))
    return agreement._allowed, agreement.base, rounding(agreement.plain.model)


@pytest.mark.parametrize(("factor", "least", "most"), [(0, 1, 2), (100, 2, MAX_AMPLIFIED), (1e5, MAX_AMPLIFIED, 30)])
def test_amplified_rounding_is_allowed_up_to_a_bound(factor: float, least: float, most: float, tmp_path: Path) -> None:
    allowed, base, unit = allowed_by(tmp_path, factor=factor)
    assert least * unit <= allowed.of_logits(base) <= most * unit


def test_the_median_token_counts_if_16_bits_select_other_experts(tmp_path: Path) -> None:
    allowed, base, _ = allowed_by(tmp_path, kind="mixtral")
    low = {**base, "dtype": "autocast-bfloat16"}
    expected = torch.randn(20, 300)
    found = expected.clone()
    found[3] = 0.0  # of a token with other experts
    assert allowed.error(low, found, expected) == 0.0
    assert allowed.error(base, found, expected) > 1
    assert allowed.error(low, found, 2 * expected) > 0.4
    found[3] = math.nan
    assert math.isnan(allowed.error(low, found, expected))
    assert allowed.of_logits(low, tokens=2) > allowed.of_logits(low, tokens=20)


def test_every_token_counts_without_a_selection(tmp_path: Path) -> None:
    allowed, base, _ = allowed_by(tmp_path)
    low = {**base, "dtype": "autocast-bfloat16"}
    expected = torch.randn(20, 300)
    found = expected.clone()
    found[3] = 0.0
    assert allowed.error(low, found, expected) > 0.1
    assert allowed.of_logits(low, tokens=2) == allowed.of_logits(low, tokens=20)


# Errors are measured on texts of 129 tokens.
def test_a_model_that_refuses_long_texts_is_measured_on_short_ones(tmp_path: Path) -> None:
    refusal = "        if inputs_embeds.shape[1] > 100:\n            raise ValueError('too long')\n"
    place = "        if position_ids is None:\n"
    allowed, base, unit = allowed_by(tmp_path, "llama", 0.0, (place, refusal + place))
    low = {**base, "dtype": "autocast-bfloat16"}
    assert unit <= allowed.of_logits(base) < 2 * unit
    assert 0.001 < allowed.of_logits(low) < 0.5
