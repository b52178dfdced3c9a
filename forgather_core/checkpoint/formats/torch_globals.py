"""Stand-ins for the globals that the pickle of a state dict names: they record tensors, and run no code of the file.

Source: torch/_utils.py (`_rebuild_*`), torch/serialization.py (`persistent_id`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_MAX_DIMENSIONS = 64

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
        *("complex64", "complex128", "uint16", "uint32", "uint64"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
        "float8_e8m0fnu",
    )
}


class InvalidCheckpoint(Exception):  # noqa: N818 - it never leaves the readers of .bin files
    """The reason why a file is invalid, as part of a sentence."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage as a pickle describes it. A dtype of None means untyped bytes."""

    key: str
    dtype: torch.dtype | None
    count: int


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor as a pickle describes it."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False


def _rebuild_tensor_v2(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any = False, _hooks: Any = None, metadata: Any = None
) -> TensorRecord:
    return _tensor_record(storage, getattr(storage, "dtype", None), offset, shape, stride, metadata)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> TensorRecord:
    return _tensor_record(storage, dtype, offset, shape, stride, metadata)


def _tensor_record(storage: Any, dtype: Any, offset: Any, shape: Any, stride: Any, metadata: Any) -> TensorRecord:
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise InvalidCheckpoint("it describes a tensor without values, or with an unknown dtype")
    bits = {} if metadata is None else metadata
    if type(bits) is not dict or not bits.keys() <= {"conj", "neg"} or not all(type(v) is bool for v in bits.values()):
        raise InvalidCheckpoint("it describes a tensor with unknown flags")
    if type(offset) is not int or not are_sizes((offset,)) or not are_sizes(shape) or not are_sizes(stride):
        raise InvalidCheckpoint("it describes a tensor whose sizes are not integers in the valid range")
    if len(shape) != len(stride):
        raise InvalidCheckpoint("it describes a tensor whose strides do not match its dimensions")
    return TensorRecord(storage, dtype, offset, shape, stride, bits.get("conj", False), bits.get("neg", False))


def are_sizes(values: Any) -> bool:
    """Return whether a value is a tuple of sizes."""
    return (
        type(values) is tuple
        and len(values) <= _MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 2**63 for n in values)
    )


def _same(tensor: Any, *_: Any) -> Any:
    """Return a parameter or a tensor with attributes as its plain tensor."""
    return tensor


def _from_type(rebuild: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
    if rebuild not in CALLABLES or type(arguments) is not tuple:
        raise InvalidCheckpoint("it describes a tensor of an unknown class")
    return rebuild(*arguments)


def _empty(*arguments: Any) -> dict[str, Any]:
    if arguments:
        raise InvalidCheckpoint("it creates a dictionary from arguments")
    return {}


class _Kind:
    """Stand-in for a class that a pickle names but never instantiates."""


GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _empty,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _same,
    ("torch._utils", "_rebuild_parameter_with_state"): _same,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch.nn.parameter", "Parameter"): _Kind,
    ("torch.nn.parameter", "Buffer"): _Kind,
    ("torch", "Tensor"): _Kind,
    ("torch.storage", "UntypedStorage"): None,
}
GLOBALS |= {("torch", name): dtype for name, dtype in STORAGES.items()}
GLOBALS |= {("torch", name): dtype for name, dtype in _DTYPES.items()}
CALLABLES: tuple[Callable[..., Any], ...] = (_empty, _rebuild_tensor_v2, _rebuild_tensor_v3, _same, _from_type)
