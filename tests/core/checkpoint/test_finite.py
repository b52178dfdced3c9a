"""NaN and Inf are found in every float dtype, layout and part of a tensor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from forgather_core.checkpoint.formats.finite import non_finite, part_scanner

FLOATS = [
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2, torch.float8_e4m3fn,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
]  # fmt: skip


@given(st.sampled_from(FLOATS), st.integers(1, 40), st.integers(0, 2**30), st.booleans())
def test_agrees_with_torch_for_any_bits(dtype: torch.dtype, count: int, seed: int, strided: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (count * dtype.itemsize * 2,), dtype=torch.uint8, generator=generator)
    values = raw.view(dtype)[:: 2 if strided else 1]
    assert non_finite(values) == (not bool(torch.isfinite(values.double()).all()))


@pytest.mark.parametrize("dtype", FLOATS)
def test_all_values_of_small_dtypes(dtype: torch.dtype) -> None:
    integers = {1: torch.uint8, 2: torch.int16}.get(dtype.itemsize)
    if integers is None:
        values = torch.tensor([0.0, -0.0, torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype)
        assert not non_finite(values)
        return
    every = torch.arange(256**dtype.itemsize).to(integers).view(dtype)
    finite = torch.isfinite(every.double())
    assert not non_finite(every[finite])
    odd: Tensor = every[~finite]
    assert all(non_finite(odd[n : n + 1]) for n in range(0, len(odd), max(1, len(odd) // 50)))


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [0, 2**17 - 1, 2**17, 3 * 2**17 - 1, 3 * 2**17])
def test_one_value_anywhere_in_a_long_tensor_is_found(value: float, at: int) -> None:
    """The elements are scanned in runs of 2^19 bytes."""
    values = torch.full((3 * 2**17 + 1,), torch.finfo(torch.float32).min)
    assert not non_finite(values)
    values[at] = value
    assert non_finite(values)


@pytest.mark.parametrize(
    "values",
    [torch.empty(0), torch.empty(3, 0, dtype=torch.float8_e4m3fn), torch.tensor([2**31 - 1]), torch.tensor([True])],
)
def test_empty_tensors_and_integers_are_finite(values: Tensor) -> None:
    assert not non_finite(values)


@pytest.mark.parametrize("dtype", FLOATS)
@given(count=st.integers(1, 30), data=st.data())
def test_a_part_is_scanned_on_its_own(dtype: torch.dtype, count: int, data: st.DataObject) -> None:
    at, start = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, count - 1))
    end = data.draw(st.integers(start + 1, count + 3))  # the last part may be shorter than the others
    values = torch.zeros(count)
    values[at] = torch.nan
    assert part_scanner(values.to(dtype))(start, end) == (start <= at < end)


def test_a_scanner_keeps_its_tensor_alive_and_needs_no_gradient() -> None:
    is_bad = part_scanner(torch.full((4,), torch.inf, requires_grad=True) * 1)
    torch.zeros(4)  # would reuse freed memory
    assert is_bad(0, 4)
