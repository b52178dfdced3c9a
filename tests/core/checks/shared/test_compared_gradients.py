"""Comparison of gradients: errors are relative to sizes that do not hide them, and a jump by rounding is no error."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from forgather_core.checks.shared.compared_gradients import (
    Gradients,
    Recomputation,
    compare_gradients,
    gradient_error,
    gradients_of,
    perturbed_weights,
)


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


def at_a_kink(activation: nn.Module) -> tuple[nn.Sequential, Tensor]:
    """Return a model and a text of which two inputs of the activation are 0."""
    model = nn.Sequential(nn.Linear(2, 4, bias=False), activation, nn.Linear(4, 1, bias=False))
    torch.manual_seed(0)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0], [-2.0, 2.0], [1.0, 1.0], [2.0, 1.0]]))
        model[2].weight.fill_(1.0)
    return model, torch.ones(1, 2)


def gradients(model: nn.Module, text: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(text).sum().backward()
    return gradients_of(model)


def as_if_above_zero(model: nn.Sequential, text: Tensor) -> dict[str, Tensor]:
    """Return the gradients if rounding had made one of the two inputs positive."""
    found = gradients(model, text)
    return found | {"0.weight": found["0.weight"] + torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])}


def test_gradients_that_rounding_decides_on_are_those_of_weights_that_differ_by_rounding() -> None:
    model, text = at_a_kink(nn.ReLU())
    expected, found = gradients(model, text), as_if_above_zero(model, text)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    assert not compare_gradients("x", found, expected, 1e-5).holds
    sides: list[tuple[Gradients, Gradients, Literal["found", "expected"]]] = [
        (found, expected, "expected"),
        (expected, found, "found"),
    ]
    for one, other, side in sides:
        measured = compare_gradients("x", one, other, 1e-5, Recomputation(model, lambda: gradients(model, text), side))
        assert measured.holds
        assert measured.tolerance == 2e-5
    assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU()])
@pytest.mark.parametrize("size", [0.99, 1.5])
def test_a_wrong_gradient_is_an_error_beside_a_jump_and_without(activation: nn.Module, size: float) -> None:
    model, text = at_a_kink(activation)
    expected = gradients(model, text)
    wrong = {name: size * one for name, one in as_if_above_zero(model, text).items()}
    calls = 0

    def recompute() -> Gradients:
        nonlocal calls
        calls += 1
        return gradients(model, text)

    measured = compare_gradients("x", wrong, expected, 1e-5, Recomputation(model, recompute, "expected"))
    assert not measured.holds
    assert measured.error == gradient_error(wrong, expected)[0]
    assert calls == 1 + (16 if isinstance(activation, nn.ReLU) else 6)


def test_the_amplification_of_rounding_errors_adds_to_the_tolerance() -> None:
    model = nn.Linear(2, 1, bias=False)
    text = torch.ones(1, 2)

    def cancelled() -> dict[str, Tensor]:
        """Return gradients that depend on a small difference of large weights."""
        model.zero_grad()
        (1e4 * (model.weight[0, 0] - model.weight[0, 1]) + model(text)).square().sum().backward()
        return gradients_of(model)

    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1.0 - 1e-3]]))
    expected = cancelled()
    with perturbed_weights(model, 6, 99):
        found = cancelled()
    error = gradient_error(found, expected)[0]
    both = Recomputation(model, cancelled, "expected")
    measured = compare_gradients("x", found, expected, 0.49 * error, both)
    assert (measured.error, measured.holds) == (error, True)
    assert error < measured.tolerance <= 2 * 0.98 * error
    assert not compare_gradients("x", found, expected, 0.49 * error).holds


def test_amplified_rounding_of_models_of_others_is_allowed_up_to_a_bound() -> None:
    weight = nn.Parameter(torch.ones(2))
    model = nn.ParameterList([weight])

    def amplified(by: float) -> Gradients:
        """Return a gradient that changes by `by` times the change of a weight."""
        return {"0": torch.tensor([1.0, 1.0]) + by * (weight.detach() - 1)}

    for by, allowed in ((1e3, True), (1e6, False)):
        found = {"0": torch.tensor([1.0, 1.0 + 0.5 * by * 1e-7])}
        for limit in (None, 6e-5):
            again = Recomputation(model, lambda by=by: amplified(by), "expected", limit)  # type: ignore[misc]
            measured = compare_gradients("x", found, amplified(by), 1e-6, again)
            assert measured.holds == (limit is not None and allowed), (by, limit, measured)
            assert 2e-6 <= measured.tolerance <= 6e-5


@pytest.mark.parametrize("kind", ["first call", "random"])
def test_gradients_that_differ_from_call_to_call_are_an_error(kind: str) -> None:
    model, text = at_a_kink(nn.ReLU())
    expected = gradients(model, text)
    calls = 0

    def recompute() -> Gradients:
        nonlocal calls
        calls += 1
        size = 1.0 if kind == "first call" else 1 + calls % 3
        return {name: size * one for name, one in gradients(model, text).items()}

    wrong = {name: 4 * one for name, one in expected.items()}
    assert compare_gradients("x", wrong, expected, 1e-5, Recomputation(model, recompute)).error == pytest.approx(
        gradient_error(wrong, expected)[0]
    )
    assert calls == 1


def test_only_weights_that_are_floating_point_numbers_are_perturbed() -> None:
    model = nn.Linear(3, 2).double()
    model.quantized = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    before = {name: one.clone() for name, one in model.named_parameters()}
    with perturbed_weights(model, 1, 0):
        assert torch.equal(model.quantized, before["quantized"])
        change = (model.weight - before["weight"]).abs() / before["weight"].abs()
        assert 0 < float(change.detach().max()) < 10 * torch.finfo(torch.float64).eps
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())


def test_gradients_that_agree_or_are_incomparable_are_not_computed_again() -> None:
    def recompute() -> Gradients:
        raise AssertionError

    found, expected = pair(large=torch.full((4,), 0.8))
    assert compare_gradients("x", found, expected, 0.051, Recomputation(nn.Linear(1, 1), recompute)).holds
    for other in ({}, {"large": torch.full((4,), torch.nan)}):
        assert not compare_gradients("x", other, expected, 0.051, Recomputation(nn.Linear(1, 1), recompute)).holds
