"""The safetensors format: read an untrusted header, and write a header deterministically.

A file consists of the length of its header in eight bytes, the header as JSON, and the data:
https://github.com/huggingface/safetensors#format. The writer of the safetensors package does not hash the file, and is
not deterministic if the metadata has several keys.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError, access_hint
from ...filesystem.disk import read_bytes
from ...filesystem.printable import dtype_of, printable_name, shape_of
from .foreign import FETCH_AGAIN, describe_open
from .strict_json import LIMIT, parse_object

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

_PREFIX = struct.Struct("<Q")
_ALIGNED = 64  # bytes: a cache line, at which copies are fastest; the format requires 8
_METADATA = "__metadata__"
_MAX_DIMENSIONS = 64
_SAVE_AS_BIN = "save as .bin: omit --safetensors, or convert with --format bin"
_SPARE_BRACKETS = 10_000  # names may contain brackets
_MOST_TENSORS = 131_072  # the same limit as for a `.bin` file


@dataclass(frozen=True)
class Entry:
    """A tensor in a file. `offset` is in bytes from the start of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Header:
    """The header of a file: the tensors by name, and the metadata."""

    tensors: dict[str, Entry]
    metadata: dict[str, str]


def read_header(descriptor: int, path: Path) -> Header:
    """Read the header of a file. Every number is checked against the file's length.

    Raises:
        CheckpointError: The file is damaged or is not safetensors.
    """
    try:
        length = os.fstat(descriptor).st_size
        if length < _PREFIX.size:
            raise ValueError("it is shorter than the length of its header")
        prefix = read_bytes(descriptor, _PREFIX.size, 0)
        (size,) = _PREFIX.unpack(prefix)
        if size > LIMIT:
            raise ValueError(f"its header has {size:,} bytes; at most {LIMIT:,} are supported")
        if size > length - _PREFIX.size:
            raise ValueError(f"it ends within its header: {length:,} bytes of {size + _PREFIX.size:,}")
        text = read_bytes(descriptor, size, _PREFIX.size)
        count = text.count(b'"data_offsets"')
        if count > _MOST_TENSORS:
            raise ValueError(f"it has {count:,} tensors; at most {_MOST_TENSORS:,} are supported in one file")
        content = parse_object(text, 4 * count + _SPARE_BRACKETS)
        return _checked(content, _PREFIX.size + size, length)
    except ValueError as error:
        foreign = describe_open(descriptor, path.suffix)
        problem = f"is not a safetensors file, or is damaged: {f'it {foreign.problem}' if foreign else error}"
        raise CheckpointError(problem, file=path, hint=(foreign and foreign.hint) or FETCH_AGAIN) from None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", file=path, hint=access_hint(error)) from None


def _checked(content: dict[str, Any], start: int, length: int) -> Header:
    metadata = content.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata is not a map of strings")
    spans = []
    found = {}
    for name, item in content.items():
        dtype, shape, begin, end = _fields(name, item)
        if prod(shape) * dtype.itemsize != end - begin:
            raise ValueError(
                f"'{printable_name(name)}' has {end - begin:,} bytes; expected {shape_of(shape)} elements of "
                f"{dtype.itemsize} bytes"
            )
        spans.append((begin, end, name))
        found[name] = Entry(dtype, shape, start + begin)
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise ValueError(
                f"'{printable_name(name)}' "
                f"{'overlaps the tensor before it' if begin < at else 'leaves a gap before it'}"
            )
        at = end
    if start + at != length:
        reason = "it is truncated" if start + at > length else "it has bytes that belong to no tensor"
        raise ValueError(f"{reason}: it has {length:,} bytes; its header describes {start + at:,}")
    return Header(found, metadata)


def _fields(name: str, item: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    if not isinstance(item, dict) or item.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"'{printable_name(name)}' must have dtype, shape and data_offsets")
    kind, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    dtype = DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise ValueError(f"'{printable_name(name)}' has an unknown dtype: {printable_name(kind)}")
    if not _is_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"the shape of '{printable_name(name)}' is not a list of sizes")
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"the offsets of '{printable_name(name)}' are not a start and an end")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _is_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 2**63 for n in values)


def write_order(tensors: Mapping[str, torch.dtype]) -> list[str]:
    """Return the order of tensors in a file: wide dtypes first, so that every tensor is aligned, then by name."""
    return sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))


def header_bytes(
    tensors: Iterable[tuple[str, torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return the start of a file that holds these tensors in this order, up to the data.

    Args:
        tensors: Name, dtype and shape of each tensor.
        metadata: Additional metadata.

    Raises:
        CheckpointError: The format does not support a dtype.
    """
    content: dict[str, Any] = {_METADATA: {"format": "pt", **(metadata or {})}}
    at = 0
    for name, dtype, shape in tensors:
        if name == _METADATA:
            raise CheckpointError(f"safetensors reserves the name '{name}'", hint=_SAVE_AS_BIN)
        if dtype not in NAMES:
            problem = f"'{printable_name(name)}' is {dtype_of(dtype)}, which safetensors does not support"
            raise CheckpointError(problem, hint=_SAVE_AS_BIN)
        end = at + prod(shape) * dtype.itemsize
        content[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + _PREFIX.size) % _ALIGNED)
    return _PREFIX.pack(len(text)) + text
