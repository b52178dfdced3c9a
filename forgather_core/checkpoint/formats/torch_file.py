"""`.bin` files: find and check the tensors that a file's pickle describes, without running its code.

torch.load() with `weights_only` does not run its code either, but a file can make it crash, fill the memory, or, with a
memory map, return wrong bytes as values (for records that are compressed or too short). Here values stay in the file
until they are read; `torch_pickle` reads the description.

The format: torch/serialization.py, torch/_utils.py; the legacy format is `_legacy_save` there.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

from torch import Tensor

from ...errors import CheckpointError, access_hint
from ...filesystem.disk import read_bytes
from ...filesystem.printable import printable_name, shape_of
from .foreign import FETCH_AGAIN, describe_open
from .section import Section
from .stored import FileTensor, Readable, StoredTensor, WeightFile
from .torch_globals import InvalidCheckpoint, Storage, TensorRecord
from .torch_pickle import read_pickle
from .zip_directory import MOST_RECORDS, DamagedZip, Record, content_offsets, is_archive, read_directory

_PICKLE_LIMIT = 64_000_000  # bytes
_REPEATED = 16 * 2**20  # bytes by which tensors that repeat their values may exceed the size of the file
_LEGACY_STORAGE = 64  # minimum bytes of a storage and its description
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_SIZE = struct.Struct("<q")


def read_tensors(file: WeightFile) -> dict[str, StoredTensor]:
    """Return the tensors of a file. No value is read yet.

    Raises:
        CheckpointError: The file is damaged, or holds anything other than tensors of supported kinds.
    """
    with _reported(file):
        archive = is_archive(file)
        if not archive and (foreign := describe_open(file.descriptor, file.path.suffix)) is not None:
            raise _invalid(file, f"it {foreign.problem}", foreign.hint)
        described, spans = _read_zip(file) if archive else _read_legacy(file)
        if not isinstance(described, dict):
            raise InvalidCheckpoint("it is not a mapping of names to tensors")
        found = {name: _tensor(name, item, spans, file) for name, item in described.items()}
        _check_repeated(found, file, file.size)
        return found


def read_tensor(file: WeightFile, start: int, size: int, name: str) -> StoredTensor:
    """Return the tensor of the archive in a range of bytes of a file. No value is read yet.

    Args:
        file: The file.
        start: Start of the archive in bytes.
        size: Size of the archive in bytes.
        name: Name of the tensor, for error messages.

    Raises:
        CheckpointError: The archive is damaged, or holds anything other than one tensor of a supported kind.
    """
    with _reported(file, f"holds damaged values of '{printable_name(name)}' at byte {start:,}"):
        described, spans = _read_zip(Section(file, start, size))
        absolute = {key: (start + at, count) for key, (at, count) in spans.items()}
        found = _tensor(name, described, absolute, file)
        _check_repeated({name: found}, file, size)
        return found


@contextmanager
def _reported(file: WeightFile, problem: str = "is not a torch weight file, or is damaged") -> Iterator[None]:
    """Turn the errors of the block into CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except (InvalidCheckpoint, DamagedZip) as error:
        raise _invalid(file, error, problem=problem) from None
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}"
        raise CheckpointError(text, file=file.path, hint=access_hint(error)) from None
    except Exception as error:  # a malformed pickle or archive can raise any exception
        # The message of such an error, for example "list index out of range", does not describe the file.
        reason = f"its pickle is malformed or ends too early ({type(error).__name__})"
        raise _invalid(file, reason, problem=problem) from None


def _invalid(
    file: WeightFile,
    reason: object,
    hint: str | None = None,
    *,
    problem: str = "is not a torch weight file, or is damaged",
) -> CheckpointError:
    return CheckpointError(
        f"{problem}: {reason}", file=file.path, hint=hint or f"{FETCH_AGAIN}, or save its tensors as safetensors"
    )


def _check_repeated(tensors: dict[str, StoredTensor], file: WeightFile, size: int) -> None:
    """Refuse tensors that expand a few of `size` bytes to a huge shape, by strides of 0 or overlapping strides."""
    left = size + _REPEATED
    for name, tensor in tensors.items():
        if isinstance(tensor, _ViewTensor) and tensor.nbytes > tensor.stored_bytes:
            left -= tensor.nbytes
            if left < 0:
                problem = (
                    f"'{printable_name(name)}' repeats {tensor.stored_bytes:,} bytes of values to a shape of "
                    f"{shape_of(tensor.shape)}, which is not supported"
                )
                tensor.refused = CheckpointError(problem, file=file.path, hint="save its contiguous() copy")


class _ViewTensor(StoredTensor):
    """A tensor whose elements are not contiguous in the file."""

    def __init__(self, record: TensorRecord, file: WeightFile, offset: int) -> None:
        super().__init__(record.shape, record.dtype)
        self._record = record
        self._file = file
        self._offset = offset
        self.refused: CheckpointError | None = None

    def check(self) -> None:
        if self.refused is not None:
            raise self.refused

    @property
    def _span(self) -> int:
        record = self._record
        return 1 + sum((n - 1) * step for n, step in zip(record.shape, record.stride, strict=True))

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file from the first element to the last."""
        return self._span * self.dtype.itemsize

    def tensor(self) -> Tensor:
        """Return the values, contiguous."""
        self.check()
        record = self._record
        flat = FileTensor((self._span,), record.dtype, self._file, self._offset).tensor()
        values = flat.as_strided(record.shape, record.stride)
        values = values.conj().resolve_conj() if record.conjugated else values
        return (-values if record.negated else values).contiguous().clone()


def _tensor(name: object, item: object, spans: dict[str, tuple[int, int]], file: WeightFile) -> StoredTensor:
    """Return a tensor of the file. `spans` has start and size in bytes of each storage, by key."""
    if not isinstance(name, str):
        raise InvalidCheckpoint(f"it is not a mapping of names to tensors: a name is {printable_name(repr(name))}")
    if not isinstance(item, TensorRecord):
        raise InvalidCheckpoint(f"it is not a mapping of names to tensors: '{printable_name(name)}' is {_kind(item)}")
    if item.storage.key not in spans:
        raise InvalidCheckpoint(f"the values of '{printable_name(name)}' are missing")
    start, size = spans[item.storage.key]
    width = item.dtype.itemsize
    empty = 0 in item.shape
    span = 0 if empty else 1 + sum((n - 1) * step for n, step in zip(item.shape, item.stride, strict=True))
    if (item.offset + span) * width > size and not empty:
        raise InvalidCheckpoint(f"'{printable_name(name)}' extends beyond its {size:,} bytes of values")
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


def _read_zip(file: Readable) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Return the unpickled description of an archive, and start and size in bytes of each storage."""
    records = read_directory(file)
    pickles = [record for record in records if record.name.split("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise InvalidCheckpoint("it has no data.pkl" if not pickles else "it has several data.pkl")
    if any(record.name.endswith("/constants.pkl") for record in records):
        raise InvalidCheckpoint("it is a TorchScript program")
    root = pickles[0].name.removesuffix("data.pkl")
    found: dict[str, tuple[int, int]] = {}
    description = b""
    for record, start in zip(records, content_offsets(file, records), strict=True):
        if not record.name.startswith(root):
            raise InvalidCheckpoint(
                f"it holds '{printable_name(record.name)}', which is outside '{printable_name(root)}'"
            )
        name = record.name.removeprefix(root)
        if not record.is_plain:
            raise InvalidCheckpoint(f"'{printable_name(name)}' is compressed or encrypted, which is not supported")
        if name == "byteorder" and _content(file, record, start) != b"little":
            raise InvalidCheckpoint("its values are not little-endian")
        if record is pickles[0]:
            description = _content(file, record, start)
        if name.startswith("data/"):
            found[name.removeprefix("data/")] = (start, record.size)
    return read_pickle(io.BytesIO(description), len(found)), found


def _content(file: Readable, record: Record, start: int) -> bytes:
    if record.size > _PICKLE_LIMIT:
        raise InvalidCheckpoint(
            f"'{printable_name(record.name)}' has {record.size:,} bytes; at most {_PICKLE_LIMIT:,} are supported"
        )
    return file.read_bytes(record.size, start)


def _read_legacy(file: WeightFile) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Return the same as `_read_zip` for a file in the format before torch 1.6: five pickles, then the storages."""
    data = io.BytesIO(read_bytes(file.descriptor, min(file.size, _PICKLE_LIMIT), 0))
    most = min(MOST_RECORDS, file.size // _LEGACY_STORAGE)
    if read_pickle(data, 0) != _LEGACY_MAGIC:
        raise InvalidCheckpoint("it does not start with the header of a torch file")
    read_pickle(data, 0)  # the version of the protocol
    if (system := read_pickle(data, 0)) and isinstance(system, dict) and system.get("little_endian") is False:
        raise InvalidCheckpoint("its values are not little-endian")
    storages: dict[str, Storage] = {}
    described = read_pickle(data, most, storages)
    keys = read_pickle(data, most)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise InvalidCheckpoint("its list of storages is damaged")
    at, positions = data.tell(), {}
    for key in keys:
        if at + _LEGACY_SIZE.size > file.size:  # the last storage may have no elements
            raise InvalidCheckpoint("it is truncated")
        (count,) = _LEGACY_SIZE.unpack(read_bytes(file.descriptor, _LEGACY_SIZE.size, at))
        storage = storages.get(key)
        if storage is None or storage.dtype is None or count != storage.count:
            raise InvalidCheckpoint(f"its storage '{printable_name(key)}' has another size than in its pickle")
        size = count * storage.dtype.itemsize
        positions[key] = (at + _LEGACY_SIZE.size, size)
        at += _LEGACY_SIZE.size + size
    if at > file.size:
        raise InvalidCheckpoint("it is truncated")
    return described, positions
