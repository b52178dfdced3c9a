"""Read the pickle in the `.metadata` of a torch distributed checkpoint, without running its code.

Every class that it may name has a stand-in, which records the attributes of an instance; all other names are refused.

Source: torch/distributed/checkpoint/metadata.py and filesystem.py (`_StorageInfo`).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...filesystem.printable import printable_name
from .torch_globals import GLOBALS, STORAGES, InvalidCheckpoint, are_sizes
from .torch_pickle import OPERATIONS, Vocabulary, read_pickle

_METADATA = "torch.distributed.checkpoint.metadata"
_BEFORE = "torch.distributed._shard.sharded_tensor.metadata"  # of TensorProperties, in older releases of torch
_LONGEST_NAME = 10_000


@dataclass(frozen=True, slots=True)
class _Class:
    """Stand-in for a class."""

    name: str


@dataclass(slots=True, eq=False)
class Instance:
    """An instance of a class.

    Args:
        kind: Name of the class.
        state: Its attributes by name, or another state that the class pickles.
    """

    kind: str
    state: Any = None

    def attribute(self, name: str) -> Any:
        """Return an attribute, or None if there is none."""
        return self.state.get(name) if type(self.state) is dict else None


def read_metadata_pickle(data: bytes, max_entries: int) -> Any:
    """Read a pickle: plain values, an `Instance` for each dataclass, and dtypes.

    Args:
        data: The content of `.metadata`.
        max_entries: Number of tensors and objects that the files of the checkpoint can contain. It limits the
            operations of the pickle.

    Raises:
        InvalidCheckpoint: The pickle contains something that such a file does not contain.
        Exception: The pickle is malformed; the exception can have any type.
    """
    return read_pickle(io.BytesIO(data), max_entries, vocabulary=_VOCABULARY)


def storage_key(name: object, offsets: object) -> str:
    """Return the key of a chunk in the mapping of `storage_data`, whose keys are instances of `MetadataIndex`.

    It is a string because tuples of crafted numbers collide in a dict, which takes quadratic time.

    Raises:
        InvalidCheckpoint: The name or the offsets are not valid.
    """
    if type(name) is not str or len(name) > _LONGEST_NAME or not (offsets is None or are_sizes(offsets)):
        raise InvalidCheckpoint("it describes a stored tensor in an unknown form")
    return repr((name, offsets))


def _stand_in(module: str, name: str) -> Any:
    if (found := _GLOBALS.get((module, name))) is None:
        full = f"{printable_name(module)}.{printable_name(name)}"
        raise InvalidCheckpoint(f"it holds code, which is not run: {full}")
    return found


def _call(reader: Any, _: object) -> None:
    arguments, function = reader.stack.pop(), reader.stack.pop()
    if not any(function is known for known in _FUNCTIONS) or type(arguments) is not tuple:
        raise InvalidCheckpoint("it calls a function that .metadata does not use, which is not run")
    reader.stack.append(function(*arguments))


def _new_instance(reader: Any, _: object) -> None:
    arguments, kind = reader.stack.pop(), reader.stack.pop()
    if type(kind) is not _Class or arguments != ():
        raise InvalidCheckpoint("it creates an object that .metadata does not contain")
    reader.stack.append(Instance(kind.name))


def _set_state(reader: Any, _: object) -> None:
    state = reader.stack.pop()
    if type(reader.stack[-1]) is not Instance:
        raise InvalidCheckpoint("it sets the state of an object that .metadata does not contain")
    reader.stack[-1].state = state


def _plain_key(name: Any) -> Any:
    if type(name) is Instance and name.kind == "MetadataIndex":
        return storage_key(name.attribute("fqn"), name.attribute("offset"))
    return name


def _size(*arguments: Any) -> tuple[int, ...]:
    sizes = arguments[0] if arguments else ()
    if len(arguments) > 1 or not are_sizes(sizes):
        raise InvalidCheckpoint("it describes a size by something other than integers in the valid range")
    return tuple(sizes)


def _layout(name: Any) -> str:
    return name if type(name) is str else ""


def _unused(*_: Any) -> None:
    """Stand-in for objects that have no effect on the tensors: memory formats, the path of the save."""


_FUNCTIONS: tuple[Callable[..., Any], ...] = (_size, _layout, _unused)
_GLOBALS: dict[tuple[str, str], Any] = {
    **{
        (_METADATA, name): _Class(name)
        for name in (
            *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata"),
            *("ChunkStorageMetadata", "TensorProperties"),
        )
    },
    (_BEFORE, "TensorProperties"): _Class("TensorProperties"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _Class("_StorageInfo"),
    ("torch", "Size"): _size,
    ("torch.serialization", "_get_layout"): _layout,
    (_METADATA, "_MEM_FORMAT_ENCODING"): _unused,
    (_BEFORE, "MEM_FORMAT_ENCODING"): _unused,
    **{
        (module, name): _unused
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
    **{key: value for key, value in GLOBALS.items() if isinstance(value, torch.dtype) and key[1] not in STORAGES},
}
_VOCABULARY = Vocabulary(
    {
        **{name: run for name, run in OPERATIONS.items() if name != "BINPERSID"},
        "REDUCE": _call,
        "NEWOBJ": _new_instance,
        "BUILD": _set_state,
    },
    _stand_in,
    _plain_key,
)
