"""The description of a torch distributed checkpoint: which chunks of which tensors are where in its files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError, access_hint
from ...filesystem.disk import read_regular
from ...filesystem.printable import printable_name
from .dcp_pickle import Instance, read_metadata_pickle, storage_key
from .foreign import FETCH_AGAIN
from .layout import DISTCP, is_file_name
from .torch_globals import InvalidCheckpoint, are_sizes

_LIMIT = 128 * 10**6  # bytes of `.metadata`, which has about 150 for each chunk
_MOST_ENTRIES = 500_000
_SMALLEST = 1_000  # bytes of a stored tensor, which is an archive of several records
_PER_ENTRY = 2  # relative to a tensor of a `.bin` file, a chunk needs this many times the operations
_RESAVE = "save it again without extensions of torch.distributed.checkpoint, or as safetensors"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor, and where it is stored.

    Args:
        offsets: Offset of the box in each dimension.
        sizes: Size of the box in each dimension.
        file: Name of the file.
        start: Start in the file, in bytes.
        length: Length in the file, in bytes.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Description:
    """A tensor: its dtype, its shape, and its chunks without those that have no elements."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


class Metadata:
    """The content of `.metadata`.

    Args:
        file: The file.
        content: The `Metadata` instance of its pickle.

    Raises:
        InvalidCheckpoint: The content has another form.
    """

    def __init__(self, file: Path, content: Any) -> None:
        if not _is(content, "Metadata"):
            raise InvalidCheckpoint("it does not hold an instance of Metadata")
        self.file = file
        entries, self._storage = content.attribute("state_dict_metadata"), content.attribute("storage_data")
        if type(entries) is not dict or type(self._storage) is not dict:
            raise InvalidCheckpoint("it has no description of tensors, or of their files")
        if not all(type(name) is str for name in entries):
            raise InvalidCheckpoint("a name is not a string")
        self._tensors = {name: item for name, item in entries.items() if _is(item, "TensorStorageMetadata")}
        self.tensors = tuple(self._tensors)
        self.objects = tuple(name for name in entries if name not in self._tensors)
        self._paths = content.attribute("planner_data")

    def path(self, name: str) -> tuple[str, ...] | None:
        """Return the keys that lead to a tensor in the dictionaries that were saved; None if they are not recorded."""
        path = self._paths.get(name) if type(self._paths) is dict else None
        if type(path) is not tuple or not path or not all(type(key) in (str, int) for key in path):
            return None
        keys = tuple(map(str, path))
        return keys if ".".join(keys) == name else None

    def describe(self, name: str) -> Description:
        """Return the description of a tensor.

        Raises:
            CheckpointError: It is damaged, or the tensor is stored in an unsupported way.
        """
        with reported(self.file):
            entry = self._tensors[name]
            properties, shape, chunks = (entry.attribute(part) for part in ("properties", "size", "chunks"))
            dtype = _dtype(properties, name)
            if not are_sizes(shape) or type(chunks) is not list:
                raise InvalidCheckpoint(f"the shape or the chunks of '{printable_name(name)}' are missing")
            found: dict[str, Chunk] = {}
            for item in chunks:
                chunk = self._chunk(name, item, len(shape))
                known = found.setdefault(storage_key("", chunk.offsets), chunk)
                if known.sizes != chunk.sizes:
                    raise InvalidCheckpoint(f"two chunks of '{printable_name(name)}' overlap")
            kept = tuple(chunk for chunk in found.values() if 0 not in chunk.sizes or 0 in shape)
            return Description(dtype, shape, kept)

    def _chunk(self, name: str, item: Any, dimensions: int) -> Chunk:
        if not _is(item, "ChunkStorageMetadata"):
            raise InvalidCheckpoint(f"it does not describe the chunks of '{printable_name(name)}'")
        offsets, sizes = item.attribute("offsets"), item.attribute("sizes")
        if not are_sizes(offsets) or not are_sizes(sizes) or not len(offsets) == len(sizes) == dimensions:
            raise InvalidCheckpoint(f"a chunk of '{printable_name(name)}' has other dimensions than the tensor")
        stored = self._storage.get(storage_key(name, offsets))
        if not _is(stored, "_StorageInfo"):
            raise InvalidCheckpoint(f"it does not list the file of a chunk of '{printable_name(name)}'")
        file, start, length = (stored.attribute(part) for part in ("relative_path", "offset", "length"))
        if not is_file_name(file):
            raise InvalidCheckpoint(
                f"it names {printable_name(repr(file)[:200])}, which is not a file in its directory"
            )
        if not are_sizes((start, length)):
            raise InvalidCheckpoint(f"the position of '{printable_name(name)}' in {file} is not valid")
        if stored.attribute("transform_descriptors"):
            problem = f"'{printable_name(name)}' was transformed when it was saved, which is not supported"
            raise CheckpointError(problem, file=self.file, hint=_RESAVE)
        return Chunk(offsets, sizes, file, start, length)


def read_metadata(file: Path) -> Metadata:
    """Read a `.metadata` file.

    Raises:
        CheckpointError: It cannot be read, is damaged, or contains anything that torch does not write.
    """
    with reported(file):
        data = read_regular(file, _LIMIT)
        with os.scandir(file.parent) as found:
            stored = sum(entry.stat().st_size for entry in found if entry.name.endswith(DISTCP.suffix))
        entries = min(stored // _SMALLEST, _MOST_ENTRIES)
        return Metadata(file, read_metadata_pickle(data, _PER_ENTRY * entries))


@contextmanager
def reported(file: Path) -> Iterator[None]:
    """Turn the errors of the block, which reads `.metadata`, into CheckpointError."""
    problem = "does not describe a torch distributed checkpoint, or is damaged"
    try:
        yield
    except CheckpointError:
        raise
    except InvalidCheckpoint as error:
        raise CheckpointError(f"{problem}: {error}", file=file, hint=FETCH_AGAIN) from None
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}"
        raise CheckpointError(text, file=file, hint=access_hint(error)) from None
    except Exception as error:  # a malformed pickle can raise any exception
        reason = f"its pickle is malformed or ends too early ({type(error).__name__})"
        raise CheckpointError(f"{problem}: {reason}", file=file, hint=FETCH_AGAIN) from None


def _is(item: Any, kind: str) -> bool:
    return type(item) is Instance and item.kind == kind


def _dtype(properties: Any, name: str) -> torch.dtype:
    """Return the dtype of a tensor from its `TensorProperties`: dtype, layout, and three fields without effect."""
    state = properties.state if _is(properties, "TensorProperties") else None
    if type(state) is dict:
        state = (state.get("dtype"), state.get("layout"))
    if type(state) is not tuple or len(state) < 2 or not isinstance(state[0], torch.dtype):
        raise InvalidCheckpoint(f"the dtype of '{printable_name(name)}' is missing")
    if state[1] != "torch.strided":
        raise InvalidCheckpoint(f"'{printable_name(name)}' is sparse, which is not supported")
    return state[0]
