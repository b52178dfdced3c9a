"""Write `.bin` files in torch.save()'s zip format, with one tensor in memory at a time.

torch.save() needs all tensors of a file on the CPU at once, and its record checksums are slower than disks.

The format: torch/serialization.py (`_save`), torch/_utils.py (`_rebuild_tensor_v2`, `_rebuild_tensor_v3`).
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch._utils import _rebuild_tensor_v2, _rebuild_tensor_v3

from ..formats.stored import StoredTensor
from ..formats.torch_globals import STORAGES
from .weight_stream import WeightStream, write_values

_ROOT = "archive"  # the name that torch gives to archives written to a stream
_PROTOCOL = 2
_ALIGNED = 64  # bytes, as torch aligns values
_HEADER, _ZIP64 = 30, 20  # bytes of a record's header before its name, and of its zip64 sizes
_LONG = 2**30  # bytes from which sizes use the long (zip64) form, which 2**31 bytes require
_PADDING = b"FB"  # torch's type of an extra field for padding
_TYPED = {dtype: getattr(torch, name) for name, dtype in STORAGES.items()}


def write_bin(stream: WeightStream, group: Mapping[str, StoredTensor], on_written: Callable[[int], None]) -> None:
    """Write tensors in the format of torch.save() for a dict of tensors.

    Args:
        stream: The file.
        group: The tensors by name.
        on_written: Called with the size in bytes of each part that was written.

    Raises:
        OSError: The disk is full, or fails.
    """
    with zipfile.ZipFile(_Unseekable(stream), "w") as archive:  # type: ignore[call-overload]
        _write_small(archive, stream, "data.pkl", _pickled(group))
        _write_small(archive, stream, "byteorder", sys.byteorder.encode())
        for number, (name, tensor) in enumerate(group.items()):
            values = tensor.mapped()
            with _record(archive, stream, f"data/{number}", tensor.nbytes) as record:
                write_values(record.write, values, on_written)
            stream.scan(name, values)
            if not tensor.is_resident:
                stream.catch_up()
        _write_small(archive, stream, "version", b"3\n")


class _Unseekable:
    """An append-only stream: zipfile then writes the checksum of a record after its content."""

    def __init__(self, stream: WeightStream) -> None:
        self.write = stream.write
        self.flush = stream.flush


def _record(archive: zipfile.ZipFile, stream: WeightStream, name: str, size: int) -> Any:
    info = zipfile.ZipInfo(f"{_ROOT}/{name}")
    is_long = size >= _LONG
    begin = stream.position + _HEADER + len(info.filename) + _ZIP64 * is_long + 4
    padding = -begin % _ALIGNED
    info.extra = _PADDING + padding.to_bytes(2, "little") + b"Z" * padding
    return archive.open(info, "w", force_zip64=is_long)


def _write_small(archive: zipfile.ZipFile, stream: WeightStream, name: str, data: bytes) -> None:
    with _record(archive, stream, name, len(data)) as record:
        record.write(data)


def _pickled(group: Mapping[str, StoredTensor]) -> bytes:
    data = io.BytesIO()
    _Pickler(data, _PROTOCOL).dump(
        {name: _Tensor(tensor, str(number)) for number, (name, tensor) in enumerate(group.items())}
    )
    return data.getvalue()


class _Storage:
    """A storage, to which a pickle only refers."""

    def __init__(self, kind: type, key: str, count: int) -> None:
        self.id = ("storage", kind, key, "cpu", count)


class _Tensor:
    """A tensor in the form in which torch pickles it, with its own storage."""

    def __init__(self, tensor: StoredTensor, key: str) -> None:
        self._tensor = tensor
        self._key = key

    def __reduce__(self) -> tuple[Any, ...]:
        dtype, shape = self._tensor.dtype, self._tensor.shape
        hooks: OrderedDict[str, Any] = OrderedDict()
        layout = (0, shape, torch.empty(shape, device="meta").stride(), False, hooks)
        if dtype in _TYPED:
            return _rebuild_tensor_v2, (_Storage(_TYPED[dtype], self._key, prod(shape)), *layout)
        storage = _Storage(torch.UntypedStorage, self._key, self._tensor.nbytes)
        return _rebuild_tensor_v3, (storage, *layout, dtype)


class _Pickler(pickle.Pickler):
    def persistent_id(self, item: Any) -> Any:
        return item.id if isinstance(item, _Storage) else None
