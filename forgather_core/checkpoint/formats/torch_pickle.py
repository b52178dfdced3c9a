"""Read shapes, dtypes and offsets of tensors from the pickle of a state dict, without calling the functions it names.

`pickletools` splits the pickle into operations. Only the operations of state dicts are run, by the functions below, and
`torch_globals` has stand-ins for the names that may occur. `pickle.load` would run any code that the file contains.

Source: torch/_utils.py (`_rebuild_*`), torch/serialization.py (`persistent_id`); PEP 307, PEP 3154 and the
documentation of each operation in `pickletools`.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...filesystem.printable import printable_name
from .torch_globals import CALLABLES, GLOBALS, InvalidCheckpoint, Storage, TensorRecord, are_sizes

# A tensor takes about 30 operations, 8 of which add to the memo; many tensors may share a storage.
_BASE_OPERATIONS = 2_000_000
_OPERATIONS_PER_STORAGE = 80
_OPERATIONS_PER_MEMO = 2
_MOST_STACKED = 10_000  # a pickler emits batches of 1,000 items
_MOST_MARKS = 1_000


Operation = Callable[[Any, Any], None]  # of a reader, whose `stack` it changes, and of the operation's argument


@dataclass(frozen=True)
class Vocabulary:
    """The operations and names that pickles of one kind contain.

    Args:
        operations: The function of each operation, by the name in `pickletools`.
        stand_in: Returns the object that takes the place of a global, given its module and name.
        key: Returns the string or index that takes the place of a key of a dict.
    """

    operations: Mapping[str, Operation]
    stand_in: Callable[[str, str], Any]
    key: Callable[[Any], Any]


def read_pickle(
    data: io.BytesIO,
    max_storages: int,
    storages: dict[str, Storage] | None = None,
    vocabulary: Vocabulary | None = None,
) -> Any:
    """Read the pickle at the current position of `data`: plain values, and a `TensorRecord` for each tensor.

    Args:
        data: The bytes, which are read up to the end of the pickle.
        max_storages: Number of storages that the file can contain. It limits the operations of the pickle.
        storages: Receives the storages that the pickle names, by key.
        vocabulary: What the pickle may contain; None allows what state dicts contain.

    Raises:
        InvalidCheckpoint: The pickle contains something else.
        Exception: The pickle is malformed; the exception can have any type.
    """
    known = STATE_DICTS if vocabulary is None else vocabulary
    return _Reader({} if storages is None else storages, max_storages, known).read(data)


class _Reader:
    """An interpreter of the pickle operations of a vocabulary. It refuses all others.

    Args:
        storages: Receives the storages, by key.
        max_storages: Number of storages that the file can contain.
        vocabulary: What the pickle may contain.
    """

    def __init__(self, storages: dict[str, Storage], max_storages: int, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}
        self._storages = storages
        self._most = _BASE_OPERATIONS + _OPERATIONS_PER_STORAGE * max_storages
        self._most_indices = self._most // _OPERATIONS_PER_MEMO

    def read(self, data: io.BytesIO) -> Any:
        for number, (operation, argument, _) in enumerate(pickletools.genops(data)):
            if number >= self._most or len(self.stack) > _MOST_STACKED or len(self.below) > _MOST_MARKS:
                raise InvalidCheckpoint("its pickle has more operations than its tensors require")
            run = self._vocabulary.operations.get(operation.name)
            if run is None:
                raise InvalidCheckpoint(
                    f"its pickle has an operation that state dicts do not use ({operation.name}), which is not run"
                )
            run(self, argument)
        return self.stack.pop()

    def ignore(self, _: object) -> None:
        """Do nothing; the operation has no effect on the result."""

    def protocol(self, version: int) -> None:
        if version > pickle.HIGHEST_PROTOCOL:
            raise InvalidCheckpoint(f"its pickle has protocol {version}, which this Python does not support")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def text(self, value: str) -> None:
        """Push a Python 2 string; only ASCII is unambiguous."""
        if not value.isascii():
            raise InvalidCheckpoint("it holds a Python 2 string that is not ASCII")
        self.stack.append(value)

    def mark(self, _: object) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """Remove the last mark, and return the values above it."""
        items = self.stack
        self.stack = self.below.pop()
        return items

    def pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def pop_mark(self, _: object) -> None:
        self.marked()

    def make_list(self, _: object) -> None:
        items = self.marked()
        self.stack.append(items)

    def make_tuple(self, _: object) -> None:
        items = self.marked()
        self.stack.append(tuple(items))

    def make_dict(self, _: object) -> None:
        items = self.marked()
        content: dict[Any, Any] = {}
        self._set(content, items[0::2], items[1::2])
        self.stack.append(content)

    def append(self, _: object) -> None:
        value = self.stack.pop()
        self._extend([value])

    def extend(self, _: object) -> None:
        items = self.marked()
        self._extend(items)

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise InvalidCheckpoint("it appends to an object that is not a list")
        self.stack[-1].extend(items)

    def set_item(self, _: object) -> None:
        value, name = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [name], [value])

    def set_items(self, _: object) -> None:
        items = self.marked()
        self._set(self.stack[-1], items[0::2], items[1::2])

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        if not self._is_index(index) or len(self.memo) >= self._most_indices:
            raise InvalidCheckpoint("its pickle stores more values than its tensors require")
        self.memo[index] = self.stack[-1]

    def memoize(self, _: object) -> None:
        self.put(len(self.memo))

    def find(self, name: str) -> None:
        module, _, attribute = name.partition(" ")  # as pickletools joins the two lines
        self.stack.append(self._vocabulary.stand_in(module, attribute))

    def find_stacked(self, _: object) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if type(module) is not str or type(attribute) is not str:
            raise InvalidCheckpoint("it names a function by something that is not a string")
        self.stack.append(self._vocabulary.stand_in(module, attribute))

    def call(self, _: object) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is known for known in CALLABLES) or type(arguments) is not tuple:
            raise InvalidCheckpoint("it calls a function that state dicts do not use, which is not run")
        self.stack[-1] = function(*arguments)

    def set_state(self, _: object) -> None:
        self.stack.pop()  # attributes such as the `_metadata` of a state dict, which contain no weights
        if not isinstance(self.stack[-1], (dict, TensorRecord)):
            raise InvalidCheckpoint("it sets the state of an object that is not a tensor")

    def storage(self, _: object) -> None:
        fields = self.stack.pop()
        if (
            type(fields) is not tuple
            or len(fields) not in (5, 6)
            or fields[0] != "storage"
            or (len(fields) == 6 and fields[5] is not None)
        ):
            raise InvalidCheckpoint("it describes a storage in an unknown form")
        _, dtype, key, _, count = fields[:5]
        if not isinstance(key, str) or not are_sizes((count,)) or not (dtype is None or isinstance(dtype, torch.dtype)):
            raise InvalidCheckpoint("it describes a storage in an unknown form")
        self.stack.append(self._storages.setdefault(key, Storage(key, dtype, count)))

    def _is_index(self, number: int) -> bool:
        """Return whether a number is a valid index. Other numbers may collide in a dict, which takes quadratic time."""
        return 0 <= number < self._most_indices

    def _set(self, target: Any, names: Iterable[Any], values: Iterable[Any]) -> None:
        if type(target) is not dict:
            raise InvalidCheckpoint("it is not a mapping of names to tensors")
        for key, value in zip(names, values, strict=True):
            name = self._vocabulary.key(key)
            if type(name) not in (str, int):  # hashing nested values may exhaust the stack
                raise InvalidCheckpoint("it is not a mapping of names to tensors: a name is not a string")
            if type(name) is int and not self._is_index(name):
                raise InvalidCheckpoint(f"it has {printable_name(name)} as a name, which is not a valid index")
            if name in target:
                raise InvalidCheckpoint(f"it holds '{printable_name(name)}' twice")
            target[name] = value


def _stand_in(module: str, name: str) -> Any:
    if (module, name) not in GLOBALS:
        if module == "torch._utils" and name.startswith("_rebuild"):
            raise InvalidCheckpoint(
                f"it holds a tensor that is sparse, quantized or without values ({printable_name(name)})"
            )
        raise InvalidCheckpoint(f"it holds code, which is not run: {printable_name(module)}.{printable_name(name)}")
    return GLOBALS[module, name]


def _pushes(make: Callable[[], Any]) -> Operation:
    return lambda reader, _: reader.push(make())


def _tuple_of(count: int) -> Operation:
    def make(reader: _Reader, _: object) -> None:
        if len(reader.stack) < count:
            raise InvalidCheckpoint("it takes more values from its stack than there are")
        reader.stack[-count:] = [tuple(reader.stack[-count:])]

    return make


_VALUES = (  # pickletools has read the value
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)
OPERATIONS: dict[str, Operation] = {
    "PROTO": _Reader.protocol,
    "FRAME": _Reader.ignore,
    "STOP": _Reader.ignore,
    **dict.fromkeys(_VALUES, _Reader.push),
    "SHORT_BINSTRING": _Reader.text,
    "NONE": _pushes(lambda: None),
    "NEWTRUE": _pushes(lambda: True),
    "NEWFALSE": _pushes(lambda: False),
    "EMPTY_DICT": _pushes(dict),
    "EMPTY_LIST": _pushes(list),
    "EMPTY_TUPLE": _pushes(tuple),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "MARK": _Reader.mark,
    "POP": _Reader.pop,
    "POP_MARK": _Reader.pop_mark,
    "LIST": _Reader.make_list,
    "TUPLE": _Reader.make_tuple,
    "DICT": _Reader.make_dict,
    "APPEND": _Reader.append,
    "APPENDS": _Reader.extend,
    "SETITEM": _Reader.set_item,
    "SETITEMS": _Reader.set_items,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Reader.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Reader.put),
    "MEMOIZE": _Reader.memoize,
    "GLOBAL": _Reader.find,
    "STACK_GLOBAL": _Reader.find_stacked,
    "REDUCE": _Reader.call,
    "BUILD": _Reader.set_state,
    "BINPERSID": _Reader.storage,
}
STATE_DICTS = Vocabulary(OPERATIONS, _stand_in, lambda key: key)
