"""Describe a checkpoint from its headers. Values are read only to verify checksums."""

from __future__ import annotations

import os
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from ..filesystem.atomic import is_touched
from ..filesystem.printable import dtype_of, printable_name, truncated_list
from .formats.checksum import KEYS
from .formats.layout import BIN, METADATA, SAFETENSORS, weight_files
from .read.quantized import quantization_of
from .read.reader import ByteProgress, Checkpoint
from .write.companions import ConfigUpdate, config_update
from .write.locking import STAGING
from .write.write import main_dtype


def inspect_checkpoint(
    path: str | os.PathLike[str], *, verify_checksums: bool = False, on_progress: ByteProgress | None = None
) -> dict[str, Any]:
    """Validate the headers and the index of a checkpoint, and describe it as plain data.

    Args:
        path: A directory, a weight file, an index, or a Hub repository (`owner/name`).
        verify_checksums: Verify the recorded checksum of every file.
        on_progress: Called with the bytes read and the total bytes.

    Returns:
        `path`, `entry`, `format`, `generation`, `bytes`, `elements`, `dtypes` (elements by dtype), `quantized`,
        `metadata`, `notes`, and a list of dicts each for `files` and `tensors`.

    Raises:
        CheckpointError: There is no checkpoint at `path`, or it is damaged. The message names the file.
    """
    with Checkpoint.open(path) as checkpoint:
        verified = checkpoint.verify(on_progress) if verify_checksums else None
        quantization = quantization_of(checkpoint)
        checksums = checkpoint.checksums
        per_file = Counter(file for name in checkpoint for file in checkpoint.files_of(name))
        dtypes: Counter[str] = Counter()
        for tensor in checkpoint.values():
            dtypes[dtype_of(tensor.dtype)] += prod(tensor.shape)
        return {
            "path": str(path),
            "entry": checkpoint.entry.name,
            "format": checkpoint.format.suffix.removeprefix("."),
            "generation": _generation(checkpoint),
            "bytes": sum(tensor.nbytes for tensor in checkpoint.values()),
            "elements": sum(prod(tensor.shape) for tensor in checkpoint.values()),
            "dtypes": dict(dtypes.most_common()),
            "quantized": quantization.method if quantization is not None else None,
            "metadata": _plain_metadata(checkpoint),
            "files": [
                {
                    "name": name,
                    "bytes": file.size,
                    "tensors": per_file[name],
                    "checksum": checksums.get(name),
                    "verified": None if verified is None else name in verified,
                }
                for name, file in checkpoint.files.items()
            ],
            "tensors": [
                {
                    "name": name,
                    "dtype": dtype_of(tensor.dtype),
                    "shape": list(tensor.shape),
                    "bytes": tensor.nbytes,
                    "file": checkpoint.file_of(name),
                }
                for name, tensor in checkpoint.items()
            ],
            "notes": [*checkpoint.notes, *_notes(checkpoint, bool(verified)), *_directory_notes(checkpoint)],
        }


def _generation(checkpoint: Checkpoint) -> int | None:
    """Return the generation number in the shard names, or None. A save beside older shards increments it."""
    generations = {checkpoint.format.generation(name) for name in checkpoint.files}
    return generations.pop() if len(generations) == 1 else None


def _plain_metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    metadata = checkpoint.index.metadata if checkpoint.index is not None else {}
    return {name: value for name, value in metadata.items() if name not in {*KEYS, "non_finite"}}


def _notes(checkpoint: Checkpoint, verified: bool) -> list[str]:
    notes = []
    if checkpoint.index is not None:
        where = "the index" if checkpoint.has_index else "the manifest in the file"
        recorded, size = checkpoint.index.metadata.get("total_size"), sum(t.nbytes for t in checkpoint.values())
        if recorded is not None and recorded != size:
            notes.append(f"{where} records total_size {recorded}; the tensors have {size} bytes")
        actual_values = {
            "total_parameters": sum(prod(tensor.shape) for tensor in checkpoint.values()),
            "dtype": main_dtype(checkpoint),
        }
        # Other programs count parameters differently.
        for key, actual in actual_values.items() if checkpoint.is_own else ():
            if (recorded := checkpoint.index.metadata.get(key)) is not None and recorded != actual:
                notes.append(f"{where} records {key} {printable_name(recorded)}; the tensors have {actual}")
        extra = [name for name in checkpoint if name not in checkpoint.index.weight_map]
        if extra:
            notes.append(f"in a file but not in the index: {truncated_list(extra)}")
    non_finite = checkpoint.recorded_non_finite
    if non_finite and (verified or not checkpoint.is_changed):
        notes.append(f"contained NaN or Inf when saved: {truncated_list(sorted(non_finite))}")
    return notes


def _directory_notes(checkpoint: Checkpoint) -> list[str]:
    """Return notes about other files in the directory that affect this checkpoint."""
    directory = checkpoint.directory
    used = {checkpoint.entry.name, *checkpoint.files}
    notes = []
    for entry, files in weight_files(directory).items():
        if entry != checkpoint.entry.name:
            notes.append(f"{entry} is another checkpoint in this directory; loaders prefer {checkpoint.entry.name}")
        used |= set(files)
    if checkpoint.entry.name != METADATA and (directory / METADATA).is_file():
        notes.append(f"{METADATA} is another checkpoint in this directory; loaders prefer {checkpoint.entry.name}")
    stray = sorted(
        name for name in _names(directory) - used if any(f.generation(name) is not None for f in (SAFETENSORS, BIN))
    )
    if stray:
        notes.append(f"weight files that no index lists: {truncated_list(stray)}")
    if is_touched(directory / STAGING):
        notes.append("a save is in progress or was interrupted; the next save removes its leftovers")
    if config_update(None, directory, main_dtype(checkpoint)) is ConfigUpdate.DTYPE:
        notes.append(
            f"most weights are {main_dtype(checkpoint)}; config.json names another dtype, and transformers converts "
            f"the weights to it"
        )
    return notes


def _names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}
