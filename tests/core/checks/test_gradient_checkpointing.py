"""Gradient checkpointing is compared with the same operations."""

from __future__ import annotations

from pathlib import Path

import pytest

from forgather_core.checks.dropout import dropout
from forgather_core.checks.gradient_checkpointing import gradient_checkpointing
from forgather_core.checks.try_check import PASSED
from forgather_core.definitions.check import Check
from tests.support.settings import Resolve

from .planted import edited_row, failures


# With a cache, keys lie in memory in another order, and sdpa with dropout rounds the product with them differently.
@pytest.mark.parametrize("check", [gradient_checkpointing, dropout], ids=lambda check: check.name)
def test_the_layout_of_cached_keys_makes_no_difference(check: Check, small: Resolve, tmp_path: Path) -> None:
    row = edited_row(check, small, tmp_path, head_dim=8, num_key_value_heads=4, attention_dropout=0.5)
    assert row["result"] == PASSED, failures(row)
