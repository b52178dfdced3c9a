"""Read the pickle of a state dict for the shapes, dtypes and offsets of its tensors, without calling what it names.

Only the operations that state dicts consist of are supported, and `torch_globals` has stand-ins for the names that may
occur. Python's `pickle` documentation warns that any other way of reading a foreign pickle runs what it contains.

Source: torch/_utils.py (`_rebuild_*`), torch/serialization.py (`persistent_id`).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch

from ...filesystem.printable import printable_name
from .torch_globals import CALLABLES, GLOBALS, InvalidCheckpoint, Storage, TensorRecord, are_sizes

# A tensor takes about 30 operations, 8 of which add to the memo; many tensors may share a storage.
_BASE_OPERATIONS = 2_000_000
_OPERATIONS_PER_STORAGE = 80
_OPERATIONS_PER_MEMO = 2
_MOST_STACKED = 10_000  # a pickler emits batches of 1,000 items
_MOST_MARKS = 1_000
_CHECKED = 1023  # operations between two checks; used as a bit mask

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


def read_pickle(data: io.BytesIO, records: int, storages: dict[str, Storage] | None = None) -> Any:
    """Read the pickle at the current position of `data`: plain values, and a `TensorRecord` for each tensor.

    Args:
        data: The bytes, which are read up to the end of the pickle.
        records: Number of storages that the file can hold; it limits the operations of its pickle.
        storages: Receives the storages that the pickle names, by key.

    Raises:
        InvalidCheckpoint: The pickle contains something that state dicts do not contain.
        Exception: Any exception, on garbage.
    """
    return _Reader(data, {} if storages is None else storages, records).load()


class _Bounded:
    """The operations of a reader, counted at each lookup; every so often the reader's other limits are checked."""

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
                raise InvalidCheckpoint("its pickle has more operations than its tensors require")
        return self._operations[operation]


class _Reader(pickle._Unpickler):  # type: ignore[name-defined, misc]  # the one in Python: its operations can be chosen
    """Read the operations that a state dict consists of, and refuse all others."""

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
    stack: list[Any]  # undocumented attribute of the base class: values that were read and are not yet used
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
                    f"its pickle has an operation that state dicts do not use ({name}), which is not run"
                ) from None
            raise

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in GLOBALS:
            if module == "torch._utils" and name.startswith("_rebuild"):
                raise InvalidCheckpoint(
                    f"it holds a tensor that is sparse, quantized or without values ({printable_name(name)})"
                )
            raise InvalidCheckpoint(f"it holds code, which is not run: {printable_name(module)}.{printable_name(name)}")
        return GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        if (
            type(pid) is not tuple
            or len(pid) not in (5, 6)
            or pid[0] != "storage"
            or (len(pid) == 6 and pid[5] is not None)
        ):
            raise InvalidCheckpoint("it describes a storage in an unknown form")
        _, dtype, key, _, count = pid[:5]
        if not isinstance(key, str) or not are_sizes((count,)) or not (dtype is None or isinstance(dtype, torch.dtype)):
            raise InvalidCheckpoint("it describes a storage in an unknown form")
        return self._storages.setdefault(key, Storage(key, dtype, count))

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is known for known in CALLABLES) or type(arguments) is not tuple:
            raise InvalidCheckpoint("it calls a function that state dicts do not use, which is not run")
        self.stack[-1] = function(*arguments)

    def _build(self) -> None:
        self.stack.pop()  # attributes, such as the `_metadata` of a state dict: no weights
        if not isinstance(self.stack[-1], (dict, TensorRecord)):
            raise InvalidCheckpoint("it sets the state of an object that is not a tensor")

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
        """Return whether a number is a valid index. Other numbers may collide in a dict, which takes quadratic time."""
        return 0 <= number < self._most_indices

    def _remember(self, index: int) -> None:
        if not self._is_index(index) or len(self.memo) >= self._most_indices:
            raise InvalidCheckpoint("its pickle stores more values than its tensors require")
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
            raise InvalidCheckpoint("it is not a mapping of names to tensors")
        for name, value in zip(names, values, strict=True):
            if type(name) not in (str, int):  # hashing nested values may exhaust the stack
                raise InvalidCheckpoint("it is not a mapping of names to tensors: a name is not a string")
            if type(name) is int and not self._is_index(name):
                raise InvalidCheckpoint(f"it has {printable_name(name)} as a name, which is not a valid index")
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
