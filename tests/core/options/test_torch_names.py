"""Names of dtypes and devices are checked when an option is read, without torch."""

from __future__ import annotations

import pytest
import torch

from forgather_core.errors import ConfigurationError
from forgather_core.options.shared import BuildOptions
from forgather_core.options.spec import specs_of
from forgather_core.options.torch_names import DTYPE_NAMES, device_parts, dtype_name


@pytest.mark.parametrize(
    ("text", "name"),
    [("bf16", "bfloat16"), ("torch.float16", "float16"), (" FP32 ", "float32"), ("double", "float64")],
)
def test_names_of_dtypes(text: str, name: str) -> None:
    assert dtype_name(text) == name


def test_every_dtype_is_one_of_torch() -> None:
    for name in DTYPE_NAMES:
        assert getattr(torch, dtype_name(name)).is_floating_point


@pytest.mark.parametrize(
    ("text", "parts"), [("meta", ("meta", None)), ("cpu", ("cpu", None)), ("cuda:12", ("cuda", 12))]
)
def test_parts_of_devices(text: str, parts: tuple[str, int | None]) -> None:
    assert device_parts(text) == parts
    assert torch.device(text).type == parts[0]


@pytest.mark.parametrize("text", ["gpu", "cuda:x", "cpu:a", "", "cuda:-1"])
def test_names_of_no_device(text: str) -> None:
    with pytest.raises(ConfigurationError, match="must be meta, cpu, cuda, cuda:N or mps"):
        device_parts(text)


def test_meta_is_no_real_device() -> None:
    with pytest.raises(ConfigurationError, match="must be cpu, cuda, cuda:N or mps; got 'meta'"):
        device_parts("meta", real=True)


@pytest.mark.parametrize(("name", "value"), [("dtype", "float99"), ("device", "gpu9")])
def test_options_check_their_values(name: str, value: str) -> None:
    spec = next(spec for spec in specs_of(BuildOptions) if spec.name == name)
    with pytest.raises(ConfigurationError, match=f"got '{value}'"):
        spec.convert(value)
