"""The pickle of a state dict, read for the shapes, dtypes and places of its tensors: nothing that it names is called.

Only the operations that state dicts consist of are known, and what may be named is stood in for by functions of this
file that take notes. Python's own `pickle` warns that any other way of reading a foreign pickle runs what it says.

Source: torch/_utils.py (`_rebuild_*`), torch/serialization.py (`persistent_id`).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ...filesystem.wording import printable_name

_MAX_DIMENSIONS = 64

# A tensor takes about 30 operations, 8 of which put something into the memo; many may share a storage.
_BASE_OPERATIONS = 2_000_000
_OPERATIONS_PER_STORAGE = 80
_OPERATIONS_PER_MEMO = 2
_MOST_STACKED = 10_000  # a pickler hands over 1,000 items at a time
_MOST_MARKS = 1_000
_CHECKED = 1023  # operations between two checks, and a mask

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
    """A reason, as part of a sentence."""


@dataclass(frozen=True, slots=True)
class Storage:
    """What a pickle says of a storage: which one, and of what numbers (None: of bytes)."""

    key: str
    dtype: torch.dtype | None
    count: int


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """What a pickle says of a tensor."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False


def read_pickle(data: io.BytesIO, records: int, storages: dict[str, Storage] | None = None) -> Any:
    """What the pickle at the current place of `data` says: plain values, and `Described` for tensors.

    Args:
        data: The bytes; read up to the end of the pickle.
        records: How many storages the file can hold, which bounds what its pickle needs.
        storages: Is given the storages that are named, by their keys.

    Raises:
        Refused: It says what no state dict says.
        Exception: Of any kind, on garbage.
    """
    return _Reader(data, {} if storages is None else storages, records).load()


# What stands for the callables that a pickle may name.


def _rebuild_tensor_v2(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any = False, _hooks: Any = None, metadata: Any = None
) -> TensorRecord:
    return _described(storage, getattr(storage, "dtype", None), offset, shape, stride, metadata)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> TensorRecord:
    return _described(storage, dtype, offset, shape, stride, metadata)


def _described(storage: Any, dtype: Any, offset: Any, shape: Any, stride: Any, metadata: Any) -> TensorRecord:
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise InvalidCheckpoint("it describes a tensor without values, or of numbers of no known kind")
    bits = {} if metadata is None else metadata
    if type(bits) is not dict or not bits.keys() <= {"conj", "neg"} or not all(type(v) is bool for v in bits.values()):
        raise InvalidCheckpoint("it describes a tensor with unknown marks")
    if type(offset) is not int or not are_sizes((offset,)) or not are_sizes(shape) or not are_sizes(stride):
        raise InvalidCheckpoint("it describes a tensor by what are no sizes")
    if len(shape) != len(stride):
        raise InvalidCheckpoint("it describes a tensor by as many strides as it has no dimensions")
    return TensorRecord(storage, dtype, offset, shape, stride, bits.get("conj", False), bits.get("neg", False))


def are_sizes(values: Any) -> bool:
    """Whether these are a tuple of sizes."""
    return (
        type(values) is tuple
        and len(values) <= _MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 2**63 for n in values)
    )


def _same(tensor: Any, *_: Any) -> Any:
    """For a parameter, or a tensor with attributes: the tensor."""
    return tensor


def _from_type(rebuild: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
    if rebuild not in _CALLABLES or type(arguments) is not tuple:
        raise InvalidCheckpoint("it describes a tensor of a foreign class")
    return rebuild(*arguments)


def _empty(*arguments: Any) -> dict[str, Any]:
    if arguments:
        raise InvalidCheckpoint("it makes a dictionary of what is none")
    return {}


class _Kind:
    """A class that is named, and never made."""


_GLOBALS: dict[tuple[str, str], Any] = {
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
_GLOBALS |= {("torch", name): dtype for name, dtype in STORAGES.items()}
_GLOBALS |= {("torch", name): dtype for name, dtype in _DTYPES.items()}
_CALLABLES: tuple[Callable[..., Any], ...] = (_empty, _rebuild_tensor_v2, _rebuild_tensor_v3, _same, _from_type)

_OPERATIONS = (
    *(pickle.PROTO, pickle.STOP, pickle.FRAME, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.NONE, pickle.NEWTRUE),
    *(
        pickle.NEWFALSE,
        pickle.INT,
        pickle.BININT,
        pickle.BININT1,
        pickle.BININT2,
        pickle.LONG,
        pickle.LONG1,
        pickle.UNICODE,
    ),
    *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.BINFLOAT, pickle.EMPTY_DICT, pickle.DICT),
    *(pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1),
    *(pickle.TUPLE2, pickle.TUPLE3, pickle.SETITEM, pickle.SETITEMS, pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE),
    *(pickle.BUILD, pickle.BINPERSID, pickle.SHORT_BINSTRING),
)


class _Bounded:
    """The operations of a reader, counted as they are looked up; every so often its other limits are checked."""

    __slots__ = ("_left", "_operations", "_reader")

    def __init__(self, operations: dict[int, Callable[[Any], None]], reader: _Reader, most: int) -> None:
        self._operations = operations
        self._reader = reader
        self._left = most

    def __getitem__(self, operation: int) -> Callable[[Any], None]:
        self._left = left = self._left - 1
        if not left & _CHECKED:
            reader = self._reader
            if left <= 0 or len(reader.stack) > _MOST_STACKED or len(reader.metastack) > _MOST_MARKS:
                raise InvalidCheckpoint("its pickle has more operations than the tensors in it can need")
        return self._operations[operation]


class _Reader(pickle._Unpickler):  # type: ignore[name-defined, misc]  # the one in Python: its operations can be chosen
    """Reads what a state dict consists of, and refuses the rest of what a pickle can say."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        operation[0]: pickle._Unpickler.dispatch[operation[0]]  # type: ignore[attr-defined]
        for operation in _OPERATIONS
    }

    def __init__(self, data: io.BytesIO, storages: dict[str, Storage], records: int) -> None:
        super().__init__(data, encoding="ascii")
        self._storages = storages
        most = _BASE_OPERATIONS + _OPERATIONS_PER_STORAGE * records
        self._most_indices = most // _OPERATIONS_PER_MEMO
        self.dispatch = _Bounded(type(self).dispatch, self, most - most % (_CHECKED + 1))  # type: ignore[assignment, misc]

    memo: dict[int, Any]
    metastack: list[list[Any]]
    stack: list[Any]  # of the base class, which is not documented: what has been read and not yet used
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]
    append: Callable[[Any], None]

    def load(self) -> Any:
        try:
            return super().load()
        except KeyError as error:
            if error.args and isinstance(error.args[0], int):
                name = next((n for n, v in vars(pickle).items() if isinstance(v, bytes) and v == bytes(error.args)), "")
                raise InvalidCheckpoint(
                    f"its pickle does what no state dict needs ({name}), which is not run"
                ) from None
            raise

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            if module == "torch._utils" and name.startswith("_rebuild"):
                raise InvalidCheckpoint(
                    f"it holds a tensor that is sparse, quantized or without values ({printable_name(name)})"
                )
            raise InvalidCheckpoint(f"it holds code, which is not run: {printable_name(module)}.{printable_name(name)}")
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        if (
            type(pid) is not tuple
            or len(pid) not in (5, 6)
            or pid[0] != "storage"
            or (len(pid) == 6 and pid[5] is not None)
        ):
            raise InvalidCheckpoint("it describes a storage in an unknown way")
        _, dtype, key, _, count = pid[:5]
        if not isinstance(key, str) or not are_sizes((count,)) or not (dtype is None or isinstance(dtype, torch.dtype)):
            raise InvalidCheckpoint("it describes a storage in an unknown way")
        return self._storages.setdefault(key, Storage(key, dtype, count))

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is known for known in _CALLABLES) or type(arguments) is not tuple:
            raise InvalidCheckpoint("it calls what no state dict calls, which is not run")
        self.stack[-1] = function(*arguments)

    def _build(self) -> None:
        self.stack.pop()  # attributes, of a state dict its `_metadata`: no weights
        if not isinstance(self.stack[-1], (dict, TensorRecord)):
            raise InvalidCheckpoint("it sets the state of an object that is no tensor")

    def _set_items(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items[0::2], items[1::2])

    def _set_item(self) -> None:
        value, name = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [name], [value])

    def _dict(self) -> None:
        items = self.pop_mark()
        content: dict[Any, Any] = {}
        self._set(content, items[0::2], items[1::2])
        self.append(content)

    def _is_index(self, number: int) -> bool:
        """Others may collide in a dictionary, which then takes quadratic time."""
        return 0 <= number < self._most_indices

    def _remember(self, index: int) -> None:
        if not self._is_index(index) or len(self.memo) >= self._most_indices:
            raise InvalidCheckpoint("its pickle keeps more values than the tensors in it can need")
        self.memo[index] = self.stack[-1]

    def _put(self) -> None:
        self._remember(int(self.readline()[:-1]))

    def _put_byte(self) -> None:
        self._remember(self.read(1)[0])

    def _put_long(self) -> None:
        self._remember(int.from_bytes(self.read(4), "little"))

    def _memoize(self) -> None:
        self._remember(len(self.memo))

    def _set(self, target: Any, names: Iterable[Any], values: Iterable[Any]) -> None:
        if type(target) is not dict:
            raise InvalidCheckpoint("it is no mapping of names to tensors")
        for name, value in zip(names, values, strict=True):
            if type(name) not in (str, int):  # to hash anything deeper may exhaust the stack
                raise InvalidCheckpoint("it is no mapping of names to tensors: a name is no text")
            if type(name) is int and not self._is_index(name):
                raise InvalidCheckpoint(f"it has the number {printable_name(name)} for a name, which is no index")
            if name in target:
                raise InvalidCheckpoint(f"it holds '{printable_name(name)}' twice")
            target[name] = value

    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.SETITEMS[0]] = _set_items
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.DICT[0]] = _dict
    dispatch[pickle.PUT[0]] = _put
    dispatch[pickle.BINPUT[0]] = _put_byte
    dispatch[pickle.LONG_BINPUT[0]] = _put_long
    dispatch[pickle.MEMOIZE[0]] = _memoize
