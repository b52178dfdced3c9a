"""Comparison of tensors and gradients: errors are relative to sizes that do not hide them, and name their place."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from forgather_core.checks.shared.tolerance import (
    compare,
    compare_gradients,
    different_tensors,
    gradient_error,
    gradients_of,
    position_of_largest,
    rounding,
)
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


def test_gradients_are_copies_and_only_those_that_exist() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].requires_grad_(False)
    model(torch.ones(1, 2)).sum().backward()
    found = gradients_of(model)
    assert found.keys() == {"0.weight", "0.bias"}
    before = found["0.bias"].clone()
    model.get_parameter("0.bias").grad.add_(1)  # type: ignore[union-attr]
    assert torch.equal(found["0.bias"], before)


def pair(**changes: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return gradients with changes, and the expected ones: a large and a tiny parameter, and rows of zeros."""
    expected = {"large": torch.full((4,), 8.0), "tiny": torch.full((4,), 1e-6), "rows": torch.zeros(99, 4)}
    return expected | {name: expected[name] + change for name, change in changes.items()}, expected


def test_an_error_is_relative_to_the_larger_of_its_parameter_and_all() -> None:
    whole = 8 / math.sqrt(2)  # root mean square of the eight elements that are not 0
    assert gradient_error(*pair()) == (0.0, None)
    sizes = {"large": 8.0, "tiny": whole, "rows": whole}
    for name, size in sizes.items():
        error, where = gradient_error(*pair(**{name: torch.tensor([0.0, 0.8, 0.0, 0.0])}))
        assert error == pytest.approx(0.8 / size)
        assert where == name


def test_the_largest_error_is_reported_and_nan_beats_every_other() -> None:
    changes = {"large": torch.full((4,), 0.4), "tiny": torch.full((4,), 4.0)}
    assert gradient_error(*pair(**changes))[1] == "tiny"
    error, where = gradient_error(*pair(**changes, rows=torch.full((99, 4), torch.nan)))
    assert math.isnan(error)
    assert where == "rows"
    error, where = gradient_error(*pair(large=torch.full((4,), torch.nan), tiny=torch.full((4,), 4.0)))
    assert math.isnan(error)
    assert where == "large"


def test_gradients_of_other_parameters_are_an_infinite_error() -> None:
    found, expected = pair()
    del found["tiny"]
    assert gradient_error(found | {"more": torch.ones(1)}, expected) == (math.inf, "more, tiny")


def test_gradients_have_twice_the_tolerance() -> None:
    found, expected = pair(large=torch.full((4,), 0.8))
    assert compare_gradients("x", found, expected, 0.051).holds
    assert not compare_gradients("x", found, expected, 0.049).holds
    assert compare_gradients("x", found, expected, 0.049).where == "large"
