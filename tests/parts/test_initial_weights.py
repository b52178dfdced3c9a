"""Rules of initial weights: fans for any number of dimensions, and errors for weights that cannot be filled."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forgather_core.parts.initial_weights import Rule, fan_in_uniform, normal, truncated_normal, values, xavier_normal
from forgather_core.parts.table_init import initialize_module


def std_of(rule: Rule, *shape: int) -> float:
    """Return the measured standard deviation."""
    torch.manual_seed(0)
    rule.fill(tensor := torch.full(shape, torch.nan))
    return tensor.double().std(correction=0).item()


@pytest.mark.regression("R11")
@pytest.mark.parametrize("rule", [xavier_normal(), fan_in_uniform()], ids=str)
@pytest.mark.parametrize("shape", [(8, 64, 128), (16, 8, 3, 3)], ids=str)
def test_fans_that_do_not_follow_from_the_shape_are_refused(rule: Rule, shape: tuple[int, ...]) -> None:
    for use in (lambda: rule.fill(torch.zeros(shape)), lambda: rule.std(shape)):
        with pytest.raises(ValueError, match=rf"shape \({shape[0]}, .* are ambiguous; pass dims to the rule"):
            use()


@pytest.mark.regression("R11")
@pytest.mark.parametrize("rule", [xavier_normal(), fan_in_uniform()], ids=str)
@pytest.mark.parametrize("shape", [(), (7,)], ids=str)
def test_vectors_and_scalars_have_no_fans(rule: Rule, shape: tuple[int, ...]) -> None:
    for use in (lambda: rule.fill(torch.zeros(shape)), lambda: rule.std(shape)):
        with pytest.raises(ValueError, match=r"has no fan_in and fan_out; use normal"):
            use()


@pytest.mark.regression("R11")
def test_an_error_names_the_parameter() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.Module()
            self.experts.up = torch.nn.Parameter(torch.zeros(4, 6, 8))

        def initial_weights(self) -> Any:
            yield "", fan_in_uniform()

    model = Model()
    with pytest.raises(ValueError, match=r"'experts\.up' \(4, 6, 8\): .* pass dims"):
        initialize_module(model, model.experts)


@settings(max_examples=40)
@given(
    st.integers(1, 3).flatmap(
        lambda n: st.tuples(st.permutations("oi" + "k" * n), st.tuples(*[st.integers(1, 20)] * (n + 2)))
    )
)
def test_fans_of_convolutions_are_torchs(case: tuple[list[str], tuple[int, ...]]) -> None:
    kinds, shape = case
    order = sorted(range(len(kinds)), key=lambda i: "oik".index(kinds[i]))  # as torch has it: out, in, kernel
    weight = torch.empty([shape[i] for i in order])
    fan_in, fan_out = torch.nn.init._calculate_fan_in_and_fan_out(weight)
    dims = "".join(kinds)
    assert xavier_normal(gain=3.0, dims=dims).std(shape) == pytest.approx(3 * math.sqrt(2 / (fan_in + fan_out)))
    assert fan_in_uniform(dims=dims).std(shape) == pytest.approx(1 / math.sqrt(3 * fan_in))


@pytest.mark.parametrize(
    ("dims", "shape", "fan_in", "fan_out"),
    [
        ("oi", (300, 40), 40, 300),
        ("io", (300, 40), 300, 40),
        ("eoi", (8, 64, 100), 100, 64),
        ("eio", (8, 64, 100), 64, 100),
        ("eeoi", (2, 3, 64, 100), 100, 64),
        ("oik", (64, 1, 50), 50, 64 * 50),  # depthwise
        ("oikk", (64, 16, 3, 5), 16 * 15, 64 * 15),
        ("eoik", (4, 32, 8, 9), 8 * 9, 32 * 9),
    ],
)
def test_what_is_drawn_has_the_std_of_its_fans(dims: str, shape: tuple[int, ...], fan_in: int, fan_out: int) -> None:
    xavier, uniform = xavier_normal(gain=2.0, dims=dims), fan_in_uniform(dims=dims)
    error = 6 / math.sqrt(2 * math.prod(shape))
    assert std_of(xavier, *shape) == pytest.approx(2 * math.sqrt(2 / (fan_in + fan_out)), rel=error)
    assert std_of(uniform, *shape) == pytest.approx(1 / math.sqrt(3 * fan_in), rel=error)
    uniform.fill(tensor := torch.zeros(shape))
    assert 0.99 / math.sqrt(fan_in) < tensor.abs().max() <= 1 / math.sqrt(fan_in)
    for rule in (xavier, uniform):
        assert rule.std(shape) == pytest.approx(std_of(rule, *shape), rel=error)


def test_experts_have_the_numbers_of_their_own_fans_as_linear_layers_have() -> None:
    experts, linear = fan_in_uniform(dims="eoi"), fan_in_uniform()
    assert experts.std((8, 64, 1024)) == linear.std((64, 1024))
    assert std_of(experts, 8, 64, 1024) == pytest.approx(std_of(linear, 64, 1024), rel=0.02)


@pytest.mark.parametrize("dims", ["", "o", "ik", "oix", "eok"])
def test_invalid_dims_are_refused(dims: str) -> None:
    with pytest.raises(ValueError, match="must contain 'o' and 'i'"):
        xavier_normal(dims=dims)


def test_dims_must_fit_the_shape() -> None:
    with pytest.raises(ValueError, match=r"one letter for each dimension of shape \(4, 5\), got dims='eoi'"):
        fan_in_uniform(dims="eoi").fill(torch.zeros(4, 5))


@pytest.mark.regression("R11")
@pytest.mark.parametrize("shape", [(3, 2), (4,), (1,)], ids=str)
def test_the_number_of_values_must_be_that_of_the_elements(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"has 2 values for {math.prod(shape)} elements"):
        values([1.0, 2.0]).fill(torch.zeros(shape))


def test_values_fill_any_shape_of_their_number() -> None:
    values(range(6)).fill(tensor := torch.zeros(2, 3))
    assert tensor.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="at least one"):
        values([])


@pytest.mark.regression("R11")
@pytest.mark.parametrize(("row", "shape"), [(4, (4, 3)), (-5, (4, 3)), (0, (0, 3)), (0, ())], ids=str)
def test_a_zero_row_that_is_not_there_is_refused(row: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=f"zero_row must be None or one of the {shape[0] if shape else 0} rows, got {row}"
    ):
        normal(std=1.0, zero_row=row).fill(torch.zeros(shape))


@pytest.mark.parametrize("row", [0, 3, -1, -4])
def test_a_zero_row_is_zero_and_no_other_is(row: int) -> None:
    normal(std=1.0, zero_row=row).fill(tensor := torch.ones(4, 300))
    assert [bool((line == 0).all()) for line in tensor] == [i == row % 4 for i in range(4)]


@pytest.mark.parametrize("cut", [0.0, -1.0, math.nan, 0.01])
def test_a_cut_that_leaves_nothing_is_refused(cut: float) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        truncated_normal(std=1.0, cut=cut)
