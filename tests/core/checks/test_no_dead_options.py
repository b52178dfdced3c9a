"""Each entry of an option must have an effect of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forgather_core.checks.no_dead_options import no_dead_options
from forgather_core.checks.try_check import FAILED, PASSED
from tests.support.settings import Resolve

from .planted import edited_row, failures

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512}


# YaRN clips ten times beta_fast.
@pytest.mark.parametrize("rope", [None, {**YARN, "beta_fast": 32.0, "beta_slow": 1.0}], ids=["default", "yarn"])
def test_entries_of_rope_have_an_effect(rope: Any, small: Resolve, tmp_path: Path) -> None:
    row = edited_row(no_dead_options, small, tmp_path, **({} if rope is None else {"rope_parameters": rope}))
    assert row["result"] == PASSED, failures(row)
    found = [one["what"].split(":")[0] for one in row["measured"]]
    assert "rope_parameters.rope_theta" in found
    assert rope is None or "rope_parameters.beta_fast" in found


# The theta of dynamic RoPE has an effect, and the type has one.
def test_a_constant_theta_of_default_rope_is_found(small: Resolve, tmp_path: Path) -> None:
    constant = ("rope.py", 'self.rope_config.rope_parameters["rope_theta"] **', "10000.0 **")
    row = edited_row(no_dead_options, small, tmp_path, constant)
    assert row["result"] == FAILED
    assert [text.split(" (")[0] for text in failures(row)] == ["rope_parameters.rope_theta has no effect"]


def test_a_dead_type_of_rope_is_found(small: Resolve, tmp_path: Path) -> None:
    dead = ("rope.py", 'rope_parameters["rope_type"]', '{"rope_type": "default"}["rope_type"]')
    row = edited_row(no_dead_options, small, tmp_path, dead)
    assert any(text.startswith("rope_parameters has no effect") for text in failures(row)), row
