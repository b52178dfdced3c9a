"""Open a directory of torch.distributed.checkpoint: the weights in it, without optimizer and other training state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import CheckpointError
from ...filesystem.printable import dtype_of, printable_name, shape_of, tensors
from ..formats.chunked import ChunkedTensor
from ..formats.dcp_metadata import Chunk, Description, Metadata, read_metadata
from ..formats.layout import DAMAGED, open_checked
from ..formats.safetensors_file import Header, read_header
from ..formats.stored import FileTensor, StoredTensor, WeightFile
from ..formats.torch_file import read_tensor

# Keys under which trainers save their own state beside the weights: accelerate, torchtitan, torchtune and others.
_TRAINING = frozenset(
    {
        *("optimizer", "optimizers", "optim", "lr_scheduler", "scheduler", "dataloader", "train_state"),
        *("rng_state", "rng", "grad_scaler", "scaler"),
    }
)
_GROUPS, _STATE = "param_groups", "state"  # the two parts of every optimizer's state
_MODEL = "model"


@dataclass(frozen=True)
class Distributed:
    """The weights of a torch distributed checkpoint.

    Args:
        files: The files with weights, by name.
        tensors: The weights, by name.
        located: The names of the files of each tensor, by name of the tensor.
        notes: What was left out, and how names were changed, one sentence each.
    """

    files: Mapping[str, WeightFile]
    tensors: Mapping[str, StoredTensor]
    located: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]


def open_distributed(entry: Path, stack: ExitStack) -> Distributed:
    """Open the weights that a `.metadata` file describes. No value is read yet.

    Args:
        entry: The `.metadata` file.
        stack: Receives callbacks that close the opened files.

    Raises:
        CheckpointError: The checkpoint is damaged or incomplete, or has no weights. The message names the file.
    """
    metadata = read_metadata(entry)
    names, notes = weight_names(metadata)
    if not names:
        problem = "describes no weights" + (f": {notes[0]}" if notes else "")
        raise CheckpointError(problem, file=entry, hint="name the directory that has the weights of the model")
    described = {name: metadata.describe(stored) for stored, name in names.items()}
    parts = _Parts(entry, stack)
    found = {name: parts.tensor(stored, described[name]) for stored, name in names.items()}
    located = {name: tuple(dict.fromkeys(chunk.file for chunk in item.chunks)) for name, item in described.items()}
    return Distributed(dict(sorted(parts.files.items())), found, located, notes)


def weight_names(metadata: Metadata) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the names of the weights by the names under which they are stored, and notes.

    The keys of the dictionaries around a state dict, such as `model` in `{"model": model.state_dict()}`, are removed.
    """
    prefixes = _optimizers((*metadata.tensors, *metadata.objects))
    kept = [name for name in metadata.tensors if not _is_training_state(name, prefixes)]
    notes = []
    if left := len(metadata.tensors) - len(kept):
        notes.append(f"{tensors(left)} of the optimizer and other training state left out")
    outer = {name: (metadata.path(name) or (name,))[:-1] for name in kept}
    chosen = _container(Counter(outer.values()))
    prefix = "".join(f"{key}." for key in chosen)
    names = {name: name.removeprefix(prefix) if outer[name] == chosen else name for name in kept}
    if not prefix or len(set(names.values())) != len(names):
        return {name: name for name in kept}, tuple(notes)
    count = sum(keys == chosen for keys in outer.values())
    notes.append(f"names of {tensors(count)} read without '{printable_name(prefix)}'")
    return names, tuple(notes)


def _optimizers(names: Iterable[str]) -> frozenset[str]:
    """Return the prefixes under which optimizers are saved: those that `param_groups` follows."""
    found = set()
    for name in names:
        parts = name.split(".")
        if _GROUPS in parts:
            found.add("".join(f"{part}." for part in parts[: parts.index(_GROUPS)]))
    return frozenset(found)


def _is_training_state(name: str, optimizers: frozenset[str]) -> bool:
    first, _, _ = name.partition(".")
    if first in _TRAINING:
        return True
    parts = name.split(".")
    return any(
        key in parts and "".join(f"{part}." for part in parts[: parts.index(key)]) in optimizers
        for key in (_GROUPS, _STATE)
    )


def _container(counts: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    """Return the keys that lead to the state dict of the model; () if there are none, or if they are ambiguous."""
    if len(counts) == 1:
        return next(iter(counts))
    models = [keys for keys in counts if keys and keys[-1] == _MODEL]
    return models[0] if len(models) == 1 else ()


class _Parts:
    """The files of a checkpoint, and the chunks in them."""

    def __init__(self, entry: Path, stack: ExitStack) -> None:
        self.files: dict[str, WeightFile] = {}
        self._headers: dict[str, Header | None] = {}
        self._entry = entry
        self._stack = stack

    def tensor(self, stored: str, item: Description) -> StoredTensor:
        """Return a tensor.

        Args:
            stored: The name under which it is stored.
            item: Its description.

        Raises:
            CheckpointError: A file is missing or damaged, or the chunks do not cover the tensor.
        """
        chunks = [(chunk.offsets, self._values(stored, chunk, item)) for chunk in item.chunks]
        if len(chunks) == 1 and item.chunks[0].sizes == item.shape:
            return chunks[0][1]
        try:
            if not chunks or not item.shape:
                raise ValueError("it has none, or several of a scalar")
            return ChunkedTensor(item.shape, item.dtype, chunks)
        except ValueError as error:
            problem = f"the chunks of '{printable_name(stored)}' do not cover its shape {shape_of(item.shape)} once"
            raise CheckpointError(f"is damaged: {problem}: {error}", file=self._entry, hint=DAMAGED) from None

    def _values(self, stored: str, chunk: Chunk, item: Description) -> StoredTensor:
        file = self._file(chunk.file)
        header = self._header(file)
        if header is not None:
            found = self._in_safetensors(file, header, stored)
        elif chunk.start + chunk.length > file.size:
            problem = (
                f"is truncated: '{printable_name(stored)}' ends at byte {chunk.start + chunk.length:,}, the file at "
                f"{file.size:,}"
            )
            raise CheckpointError(problem, file=file.path, hint=DAMAGED)
        else:
            found = read_tensor(file, chunk.start, chunk.length, stored)
        if _form(found) != (chunk.sizes, item.dtype):
            expected, got = (f"{dtype_of(d)} {shape_of(s)}" for s, d in ((chunk.sizes, item.dtype), _form(found)))
            problem = f"holds a chunk of '{printable_name(stored)}' that {self._entry.name} describes differently"
            raise CheckpointError(f"{problem} (expected {expected}, got {got})", file=file.path, hint=DAMAGED)
        return found

    def _file(self, name: str) -> WeightFile:
        if name not in self.files:
            path = self._entry.parent / name
            self.files[name] = WeightFile(path, open_checked(path))
            self._stack.callback(self.files[name].close)
        return self.files[name]

    def _header(self, file: WeightFile) -> Header | None:
        """Return the header of a file that was saved in `SerializationFormat.SAFETENSORS`, else None."""
        name = file.path.name
        if name not in self._headers:
            begins = file.read_bytes(min(file.size, 9), 0)
            self._headers[name] = read_header(file.descriptor, file.path) if begins[8:] == b"{" else None
        return self._headers[name]

    def _in_safetensors(self, file: WeightFile, header: Header, name: str) -> StoredTensor:
        if name not in header.tensors:
            raise CheckpointError(f"does not contain '{printable_name(name)}'", file=file.path, hint=DAMAGED)
        found = header.tensors[name]
        return FileTensor(found.shape, found.dtype, file, found.offset)


def _form(tensor: StoredTensor) -> tuple[tuple[int, ...], torch.dtype]:
    return tensor.shape, tensor.dtype
