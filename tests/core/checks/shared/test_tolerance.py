"""Comparison of tensors and gradients: errors are relative to sizes that do not hide them, and name their place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from forgather_core.checks.shared.tolerance import compare, different_tensors, position_of_largest, rounding
from forgather_core.definitions.check import failure_text


class Net(nn.Module):
    """A model with a text configuration, two matrices and a longer vector."""

    def __init__(self, layers: int | None, width: int) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(2, width))
        self.long = nn.Parameter(torch.ones(10_000))
        text = SimpleNamespace() if layers is None else SimpleNamespace(num_hidden_layers=layers)
        self.config: Any = SimpleNamespace(get_text_config=lambda: text)


def test_rounding_grows_with_depth_width_and_dtype() -> None:
    eps = torch.finfo(torch.float32).eps
    assert rounding(Net(3, 64)) == pytest.approx(eps * 10 * 4 * 8)
    assert rounding(Net(7, 64)) == pytest.approx(2 * rounding(Net(3, 64)))
    assert rounding(Net(3, 256)) == pytest.approx(2 * rounding(Net(3, 64)))
    assert rounding(Net(3, 64), torch.bfloat16) == pytest.approx(2**16 * rounding(Net(3, 64)))
    assert rounding(Net(None, 64)) == rounding(Net(1, 64))


@given(st.integers(0, 1), st.integers(0, 4), st.integers(0, 2), st.sampled_from([1.0, -1.0, torch.nan, torch.inf]))
def test_the_place_of_the_largest_difference_is_named(row: int, position: int, token: int, value: float) -> None:
    expected = torch.full((2, 5, 3), 1e-3)
    found = expected.clone()
    found[0, 0, 0] += 0.1
    found[row, position, token] = value
    assert position_of_largest(found, expected) == f"row {row}, position {position}"
    assert position_of_largest(found, expected, ("row",)) == f"row {row}"


def test_tensors_without_a_place() -> None:
    assert position_of_largest(torch.ones(2, 3), torch.ones(2, 4)) == "shape: expected (2, 4), got (2, 3)"
    assert position_of_largest(torch.ones(2, 0), torch.ones(2, 0)) == "empty tensors"
    assert position_of_largest(torch.tensor(1.0), torch.tensor(2.0)) is None


def test_other_shapes_are_a_failure_without_a_position() -> None:
    case = compare("logits", torch.ones(2, 3), torch.ones(2, 4))
    assert failure_text(case.as_dict()) == "logits: expected shape (2, 4), got (2, 3)"


def test_tensors_must_be_equal_unless_a_tolerance_is_given() -> None:
    expected = torch.tensor([[3.0, 4.0, 0.0, 0.0]])  # root mean square 2.5
    found = expected + torch.tensor([[0.0, 0.0, 0.25, 0.0]])
    assert compare("x", expected, expected.clone()).holds
    strict = compare("x", found, expected)
    assert strict.error == pytest.approx(0.1)
    assert (strict.holds, strict.where) == (False, "row 0, position 2")
    assert compare("x", found, expected, 0.11).holds
    assert not compare("x", found, expected, 0.09).holds


def test_different_tensors_are_named() -> None:
    one = {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2), "d": torch.ones(2), "e": torch.ones(2)}
    other = one | {"b": torch.tensor([1.0, 2.0]), "c": torch.ones(2).double(), "d": torch.ones(2, device="meta")}
    del other["e"]
    other["f"] = torch.ones(2)
    assert different_tensors(one, other) == different_tensors(other, one) == ["b", "c", "d", "e", "f"]
    assert different_tensors(one, dict(one)) == []
