"""Save a checkpoint: shards first, made durable; then one rename makes them the checkpoint of the directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, DirectoryError
from ..files import directory_lock, staging_directory, sweep_stale, sync_directory, sync_file, write_atomic
from ..paths import expanded
from .layout import BIN, ENTRIES, SAFETENSORS, Format, free_generation, index_json, parse_size, superseded


@dataclass(frozen=True)
class SaveReport:
    """What was saved.

    Args:
        path: The directory.
        files: The weight files and their index.
        tensors: How many tensors, shared ones counted once.
        bytes: Their size.
    """

    path: Path
    files: tuple[str, ...]
    tensors: int
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"path": str(self.path), "files": list(self.files), "tensors": self.tensors, "bytes": self.bytes}


def save_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    safetensors: bool = False,
    max_shard_size: int | str = "5GB",
) -> SaveReport:
    """Save a model's parameters and persistent buffers in Hugging Face's sharded format.

    The index is the commit: until it is replaced, the directory's old checkpoint is the one that loads, whole. On
    return the new one is durable, and the files of the old one, of either format, are gone. Ties are saved once.

    Args:
        path: The directory; it is made if need be.
        model: The model, on any real device.
        safetensors: Save as safetensors; else with `torch.save`, as `.bin`.
        max_shard_size: Bytes, or a size such as "500MB". A larger tensor has a file of its own.

    Raises:
        CheckpointError: The model is on meta, or the directory cannot be written; the old one stands then.
    """
    limit = parse_size(max_shard_size) if isinstance(max_shard_size, str) else max_shard_size
    tensors = unique_tensors(model)
    directory = expanded(path)
    format = SAFETENSORS if safetensors else BIN
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with directory_lock(directory / "checkpoint"):
            return _save(directory, tensors, format, limit)
    except (OSError, DirectoryError) as error:
        raise CheckpointError(f"the checkpoint cannot be saved to {directory}: {error}") from None


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model's state by name. Of those that are one tensor, the source of the tie stands for all.

    Raises:
        CheckpointError: One of them is on meta.
    """
    state: dict[str, Tensor] = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    targets = getattr(model, "all_tied_weights_keys", None) or {}
    seen: set[Any] = set()
    unique: dict[str, Tensor] = {}
    for name in sorted(state, key=lambda name: name in targets):  # sources before targets
        tensor = state[name]
        if tensor.is_meta:
            raise CheckpointError(f"'{name}' is on the meta device and has no values to save: build the model on cpu")
        same = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and same in seen:
            continue
        seen.add(same)
        unique[name] = tensor
    return {name: unique[name] for name in state if name in unique}


def _save(directory: Path, tensors: Mapping[str, Tensor], format: Format, limit: int) -> SaveReport:
    sweep_stale(directory / "checkpoint")
    groups = _groups(tensors, limit)
    names = format.shards(len(groups), free_generation(directory, format, len(groups)))
    write = _write_safetensors if format is SAFETENSORS else _write_bin
    with staging_directory(directory / "checkpoint") as staging:
        for name, group in zip(names, groups, strict=True):
            write({key: _plain(tensors[key]) for key in group}, staging / name)
            _finish(staging / name)
        for name in names:
            (staging / name).rename(directory / name)
    sync_directory(directory)
    size = sum(_size(tensor) for tensor in tensors.values())
    weight_map = {key: name for name, group in zip(names, groups, strict=True) for key in group}
    write_atomic(directory / format.index, index_json(weight_map, size))
    _retire(directory, format)
    for file in superseded(directory, keep=names):
        file.unlink()
    sync_directory(directory)
    return SaveReport(directory, (*names, format.index), len(tensors), size)


def _retire(directory: Path, format: Format) -> None:
    """Remove the entries of other checkpoints. The one that has won until now goes last: that makes the new one win."""
    for name in reversed(ENTRIES):
        if name != format.index:
            (directory / name).unlink(missing_ok=True)


def _groups(tensors: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    groups: list[list[str]] = []
    room = 0
    for name, tensor in tensors.items():
        if not groups or _size(tensor) > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= _size(tensor)
    return groups or [[]]


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _plain(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, and owning no more memory than it shows: a view would bring along what it views."""
    tensor = tensor.detach().to("cpu").contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() != _size(tensor) else tensor


def _write_safetensors(group: dict[str, Tensor], file: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(group, file, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from None


def _write_bin(group: dict[str, Tensor], file: Path) -> None:
    try:
        torch.save(group, file)
    except RuntimeError as error:  # torch's writer says so when the disk is full
        raise OSError(str(error).splitlines()[0]) from None


def _finish(file: Path) -> None:
    """The permissions that any new file has, which temporary files of libraries do not; then durable."""
    example = file.with_suffix(".mode")
    example.touch()
    file.chmod(example.stat().st_mode)
    example.unlink()
    descriptor = os.open(file, os.O_RDONLY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)
