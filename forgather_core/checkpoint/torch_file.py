"""`.bin` files: the tensors that their pickle describes, found in the file and checked, without running any of it.

torch.load() with `weights_only` runs no foreign code either, but it can be made to crash, to fill the memory, and,
mapping a file, to take other bytes for values (of records that are compressed or too short). Here values stay in the
file until they are wanted; `torch_pickle` reads the description.

The format: torch/serialization.py, torch/_utils.py; the older one is `_legacy_save` there.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from math import prod
from typing import Any

from torch import Tensor

from ..disk import read_bytes
from ..errors import CheckpointError
from .stored import FileTensor, StoredTensor, WeightFile
from .torch_pickle import Described, Refused, Storage, read_pickle
from .wording import shown

_PICKLE_LIMIT = 100_000_000  # bytes
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_SIZE = struct.Struct("<q")


def read_tensors(file: WeightFile) -> dict[str, StoredTensor]:
    """The tensors of a file. No value is read yet.

    Raises:
        CheckpointError: It is damaged, holds anything but tensors, or tensors of a kind that no weight is.
    """
    try:
        described, places = _read_zip(file) if zipfile.is_zipfile(_Source(file)) else _read_legacy(file)
        if not isinstance(described, dict):
            raise Refused("it is no mapping of names to tensors")
        return {name: _tensor(name, item, places, file) for name, item in described.items()}
    except Refused as error:
        raise CheckpointError(f"{file.path} is no weight file of torch, or is damaged: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{file.path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # what reads pickles and archives fails on garbage in any way
        reason = shown(error) or type(error).__name__
        raise CheckpointError(f"{file.path} is no weight file of torch, or is damaged: {reason}") from None


class _ViewTensor(StoredTensor):
    """A tensor whose numbers do not lie one after the other in the file."""

    def __init__(self, described: Described, file: WeightFile, offset: int) -> None:
        super().__init__(described.shape, described.dtype)
        self._described = described
        self._file = file
        self._offset = offset

    def tensor(self) -> Tensor:
        """Contiguous."""
        of = self._described
        span = 1 + sum((n - 1) * step for n, step in zip(of.shape, of.stride, strict=True))
        flat = FileTensor((span,), of.dtype, self._file, self._offset).tensor()
        values = flat.as_strided(of.shape, of.stride)
        values = values.conj().resolve_conj() if of.conjugated else values
        return (-values if of.negated else values).contiguous().clone()


def _tensor(name: object, item: object, places: dict[str, tuple[int, int]], file: WeightFile) -> StoredTensor:
    if not isinstance(name, str):
        raise Refused(f"it is no mapping of names to tensors: it has the name {shown(repr(name))}")
    if not isinstance(item, Described):
        raise Refused(f"it is no mapping of names to tensors: '{shown(name)}' is {_kind(item)}")
    if item.storage.key not in places:
        raise Refused(f"the values of '{shown(name)}' are not there")
    start, size = places[item.storage.key]
    width = item.dtype.itemsize
    empty = 0 in item.shape
    span = 0 if empty else 1 + sum((n - 1) * step for n, step in zip(item.shape, item.stride, strict=True))
    if (item.offset + span) * width > size and not empty:
        raise Refused(f"'{shown(name)}' reaches beyond its {size:,} bytes of values")
    at = start + item.offset * width
    strides = zip(item.shape, item.stride, _contiguous(item.shape), strict=True)
    plain = all(n == 1 or step == usual for n, step, usual in strides)
    if empty or (plain and not item.conjugated and not item.negated):
        return FileTensor(item.shape, item.dtype, file, at)
    return _ViewTensor(item, file, at)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[n + 1 :]) for n in range(len(shape)))


def _kind(item: object) -> str:
    return "a storage" if isinstance(item, Storage) else f"of type {type(item).__name__}"


class _Source(io.RawIOBase):
    """A weight file as a stream for zipfile, which asks for a few bytes here and there."""

    def __init__(self, file: WeightFile) -> None:
        self._file = file
        self._at: int = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._file.size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        data = read_bytes(self._file.descriptor, count, self._at)
        self._at += count
        return data


_LOCAL_HEADER = struct.Struct("<4s22xHH")


def _read_zip(file: WeightFile) -> tuple[Any, dict[str, tuple[int, int]]]:
    """The pickle of an archive, and where each storage begins and how many bytes it has."""
    with zipfile.ZipFile(_Source(file)) as archive:  # type: ignore[arg-type]
        records = archive.infolist()
    pickles = [record for record in records if record.filename.split("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise Refused("it has no pickle of tensors" if not pickles else "it has several pickles")
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise Refused("it is a program of TorchScript")
    root = pickles[0].filename.removesuffix("data.pkl")
    places: dict[str, tuple[int, int]] = {}
    for record in records:
        if not record.filename.startswith(root):
            raise Refused(f"it holds '{shown(record.filename)}', which is outside of '{shown(root)}'")
        name = record.filename.removeprefix(root)
        if (
            record.compress_type != zipfile.ZIP_STORED
            or record.compress_size != record.file_size
            or record.flag_bits & 1
        ):
            raise Refused(f"'{shown(name)}' is compressed or encrypted, which torch's files are not")
        if name == "byteorder" and _record(file, record) not in {b"little"}:
            raise Refused("its numbers are not little-endian")
        if name.startswith("data/"):
            key = name.removeprefix("data/")
            if key in places:
                raise Refused(f"it holds '{shown(name)}' twice")
            places[key] = (_start(file, record), record.file_size)
    return read_pickle(io.BytesIO(_record(file, pickles[0]))), places


def _record(file: WeightFile, record: zipfile.ZipInfo) -> bytes:
    if record.file_size > _PICKLE_LIMIT:
        raise Refused(f"its '{shown(record.filename)}' of {record.file_size:,} bytes is too large")
    return read_bytes(file.descriptor, record.file_size, _start(file, record))


def _start(file: WeightFile, record: zipfile.ZipInfo) -> int:
    """Where the bytes of a record begin; they lie within the file."""
    head = _LOCAL_HEADER.unpack(read_bytes(file.descriptor, _LOCAL_HEADER.size, record.header_offset))
    if head[0] != b"PK\x03\x04":
        raise Refused(f"'{shown(record.filename)}' is not where its directory says")
    start: int = record.header_offset + _LOCAL_HEADER.size + head[1] + head[2]
    if start + record.file_size > file.size:
        raise Refused("it is truncated")
    return start


def _read_legacy(file: WeightFile) -> tuple[Any, dict[str, tuple[int, int]]]:
    """The same of a file by torch before 1.6: five pickles, then the storages in the order of the last one."""
    data = io.BytesIO(read_bytes(file.descriptor, min(file.size, _PICKLE_LIMIT), 0))
    if read_pickle(data) != _LEGACY_MAGIC:
        raise Refused("it does not begin as such a file does")
    read_pickle(data)  # the version of the protocol
    if (system := read_pickle(data)) and isinstance(system, dict) and system.get("little_endian") is False:
        raise Refused("its numbers are not little-endian")
    storages: dict[str, Storage] = {}
    described = read_pickle(data, storages)
    keys = read_pickle(data)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise Refused("its list of storages is damaged")
    at, places = data.tell(), {}
    for key in keys:
        if at + _LEGACY_SIZE.size > file.size:  # a storage without numbers may be the last one
            raise Refused("it is truncated")
        (count,) = _LEGACY_SIZE.unpack(read_bytes(file.descriptor, _LEGACY_SIZE.size, at))
        storage = storages.get(key)
        if storage is None or storage.dtype is None or count != storage.count:
            raise Refused(f"its storage '{shown(key)}' is not as long as it says")
        size = count * storage.dtype.itemsize
        places[key] = (at + _LEGACY_SIZE.size, size)
        at += _LEGACY_SIZE.size + size
    if at > file.size:
        raise Refused("it is truncated")
    return described, places
