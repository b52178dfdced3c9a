"""adapters finds weights that are read in place of a call of their module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forgather_core.checks.adapters import adapters
from forgather_core.checks.try_check import PASSED
from tests.support.settings import Resolve, small

from .planted import edited_row, failures, gpt2_row

__all__ = ["small"]

CALL = "self.act_fn(self.gate_proj(hidden_states))"
PRODUCT = "self.act_fn(nn.functional.linear(hidden_states, self.gate_proj.weight))"
PLAIN = "type(head) is nn.Linear and head.bias is None"


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}], ids=["untied", "tied"])
def test_a_correct_model_passes(options: dict[str, Any], small: Resolve, tmp_path: Path) -> None:
    row = edited_row(adapters, small, tmp_path, **options)
    assert row["result"] == PASSED, row
    assert len(row["measured"]) == 18  # for modules of three kinds: two texts, two losses with their gradients


def test_transformers_own_model_passes(tmp_path: Path) -> None:
    assert gpt2_row(adapters, tmp_path)["result"] == PASSED


def test_a_bypassed_projection_is_named(small: Resolve, tmp_path: Path) -> None:
    found = failures(edited_row(adapters, small, tmp_path, ("feed_forward.py", CALL, PRODUCT)))
    assert found[0].startswith("modules wrapped, a text, without gradients: off by")
    assert all(text.endswith("at model.layers.0.mlp.gate_proj") for text in found)


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        ("head.bias is None", "modules wrapped"),
        ("isinstance(head, nn.Linear) and head.bias is None", "modules subclassed"),
    ],
)
def test_a_loss_that_bypasses_an_adapted_head_is_found(
    condition: str, kind: str, small: Resolve, tmp_path: Path
) -> None:
    found = failures(edited_row(adapters, small, tmp_path, ("language_model.py", PLAIN, condition)))
    assert any(text.startswith(f"{kind}, training, chunked loss: off by") for text in found)
    assert {text.rpartition(", at ")[2] for text in found} == {"lm_head"}


def test_an_input_that_is_cast_to_the_dtype_of_the_weight_is_found(small: Resolve, tmp_path: Path) -> None:
    cast = "self.act_fn(self.gate_proj(hidden_states.to(self.gate_proj.weight.dtype)))"
    found = failures(edited_row(adapters, small, tmp_path, ("feed_forward.py", CALL, cast)))
    (text,) = found
    assert text.startswith("modules quantized: raises RuntimeError: expected m1 and m2 to have the same dtype")
    assert text.endswith(", at model.layers.0.mlp.gate_proj")
