"""Convert a checkpoint to another format, dtype or shard size, one tensor in memory at a time."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import CheckpointError, access_hint
from ..filesystem.atomic import new_directory
from ..filesystem.paths import expanded, refuse_working_directory
from ..filesystem.printable import tensors as counted
from ..filesystem.printable import truncated_list
from ..model.dtypes import parse_dtype
from ..options.spec import did_you_mean
from .carried import copy_others
from .formats.fp8 import DTYPES as FP8
from .formats.fp8 import ScaledTensor
from .formats.layout import BIN, DISTCP, METADATA, SAFETENSORS, Format, parse_size
from .formats.stored import CastTensor, FileTensor, StoredTensor
from .read.quantized import (
    QUANTIZATION_KEYS,
    Quantization,
    quantization_config,
    quantization_of,
    refuse_lost_scales,
    refuse_packed,
)
from .read.reader import ByteProgress, Checkpoint
from .report import SaveReport
from .write.companions import CONFIG, ConfigUpdate, config_update, read_config, write_companions
from .write.locking import saving_errors
from .write.save_job import Job, save_with_locks, superseded
from .write.write import main_dtype

FORMATS = {"safetensors": SAFETENSORS, "bin": BIN}


def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    dtype: str | None = None,
    keep: str | None = None,
    max_shard_size: int | str = "5GB",
    verify_checksums: bool = False,
    on_verify: ByteProgress | None = None,
    on_progress: ByteProgress | None = None,
) -> SaveReport:
    """Convert a checkpoint to another format, dtype or shard size.

    Without `dtype`, FP8 weights and their scales are copied unchanged; with `dtype`, they are dequantized.

    Args:
        source: A directory, a weight file, an index, or a Hub repository (`owner/name`).
        target: A new directory, which also receives the other files of the source and its subdirectories without
            weights; or the source itself, to convert in place.
        format: `safetensors` or `bin`; None keeps the source's format, and is `safetensors` for a torch distributed
            checkpoint.
        dtype: Floating-point dtype that replaces the most common dtype of the checkpoint. Tensors of any other dtype,
            such as float32 norms among bfloat16 weights, are unchanged.
        keep: Regular expression. Tensors keep their dtype if it matches any part of their name.
        max_shard_size: Bytes, or a size such as "500MB".
        verify_checksums: Verify the recorded checksum of every file first.
        on_verify, on_progress: Called with the bytes done and the total bytes.

    Raises:
        CheckpointError: The source is damaged or quantized in an unsupported format, or the target exists or cannot be
            written.
    """
    limit = parse_size(max_shard_size)
    destination = expanded(target)
    with Checkpoint.open(expanded(source)) as checkpoint:
        origin = checkpoint.directory
        in_place = destination.is_dir() and origin.samefile(destination)
        if not in_place:
            refuse_working_directory(destination)
        for tensor in checkpoint.values():
            tensor.check()
        if verify_checksums:
            checkpoint.verify(on_verify)
        chosen = _format(format) if format is not None else _default_format(checkpoint)
        quantization = quantization_of(checkpoint)
        refuse_packed(quantization, checkpoint.path)
        tensors, notes = _converted(checkpoint, dtype, keep, quantization)
        job = Job(tensors, chosen, limit, on_progress, notes=(*checkpoint.notes, *notes, *_shared_notes(checkpoint)))
        if quantization is not None and dtype is not None and in_place:
            hint = "choose a new target directory"
            problem = "is quantized (fp8) and cannot be dequantized in place"
            raise CheckpointError(problem, option="--dtype", file=destination, hint=hint)
        with saving_errors(destination):
            if in_place:
                return save_with_locks(job, destination)
            skip = {checkpoint.entry.parent.name} if checkpoint.entry.parent != origin else set()
            return _convert_to_new(job, None if checkpoint.path.is_file() else origin, destination, skip)


def _format(name: str) -> Format:
    if name not in FORMATS:
        problem = f"must be one of {', '.join(FORMATS)}; got '{name}'"
        raise CheckpointError(problem, option="--format", hint=did_you_mean(name, FORMATS))
    return FORMATS[name]


def _default_format(checkpoint: Checkpoint) -> Format:
    return SAFETENSORS if checkpoint.format is DISTCP else checkpoint.format


def _convert_to_new(job: Job, origin: Path | None, destination: Path, skip: set[str]) -> SaveReport:
    with new_directory(destination, lambda: _refuse_existing(destination)) as staging:
        if origin is not None:
            job = replace(job, notes=(*job.notes, *_copy_others(origin, staging, job, skip)))
        written = job.write_into(staging)
    return job.report(destination, written)


def _refuse_existing(destination: Path) -> None:
    if os.path.lexists(destination) and not (destination.is_dir() and not any(destination.iterdir())):
        hint = "choose a new directory, or pass the source directory to convert in place"
        raise CheckpointError("already exists", file=destination, hint=hint)


def _copy_others(origin: Path, staging: Path, job: Job, skip: set[str]) -> tuple[str, ...]:
    """Copy the files other than weights, with a config.json that matches the new weights; return notes."""
    _refuse_large_config(origin)
    notes = copy_others(origin, staging, superseded(origin) | _distributed_files(origin) | skip)
    dtype = main_dtype(job.tensors)
    if config_update(None, origin, dtype) is ConfigUpdate.DTYPE:
        (staging / CONFIG).unlink()
        write_companions(None, ConfigUpdate.DTYPE, origin, staging, dtype)
    if not _has_fp8(job.tensors):
        _remove_quantization(staging / CONFIG)
    return notes


def _distributed_files(directory: Path) -> set[str]:
    """Return the names of the files of a torch distributed checkpoint, which are not copied."""
    names = {entry.name for entry in directory.iterdir() if entry.name.endswith(DISTCP.suffix)}
    return names | {METADATA} if names else names


def _refuse_large_config(directory: Path) -> None:
    """Check that config.json is not too large: a copy of a sparse file would fill the disk.

    Raises:
        CheckpointError: The file is too large to read.
    """
    try:
        read_config(directory)
    except OSError as error:
        if error.errno == errno.EFBIG:
            problem = f"cannot be read: {error.strerror}"
            raise CheckpointError(problem, file=directory / CONFIG, hint=access_hint(error)) from None
    except ValueError:
        return


def _has_fp8(tensors: Mapping[str, StoredTensor]) -> bool:
    return any(tensor.dtype in FP8 for tensor in tensors.values())


def _remove_quantization(config: Path) -> None:
    """Remove `quantization_config` from a config.json whose weights are no longer quantized."""
    if not quantization_config(config.parent):
        return
    content = json.loads(config.read_text(encoding="utf-8-sig"))
    for part in (content, content.get("text_config")):
        for key in QUANTIZATION_KEYS:
            if isinstance(part, dict):
                part.pop(key, None)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    config.unlink()
    config.write_text(text, encoding="utf-8")


def _converted(
    checkpoint: Checkpoint, dtype: str | None, keep: str | None, quantization: Quantization | None
) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    tensors: dict[str, StoredTensor] = dict(checkpoint)
    if dtype is None:
        if keep is not None:
            raise CheckpointError("requires --dtype", option="--keep")
        return tensors, ()
    new_dtype = parse_dtype(dtype)
    old_dtype = getattr(torch, main_dtype(tensors) or "float32")
    try:
        pattern = re.compile(keep) if keep is not None else None
    except re.error as error:
        problem = f"'{keep}' is not a valid regular expression: {error}"
        raise CheckpointError(problem, option="--keep", hint="correct the pattern") from None
    notes: tuple[str, ...] = ()
    kept = []
    if quantization is not None:
        tensors, notes = _dequantized(checkpoint, quantization, new_dtype, pattern)
    elif plain := [name for name, tensor in tensors.items() if tensor.dtype in FP8]:
        notes = (f"{counted(len(plain))} in float8 without scales, converted without scaling: {truncated_list(plain)}",)
    for name, tensor in tensors.items():
        if isinstance(tensor, ScaledTensor):
            tensors[name] = CastTensor(tensor, new_dtype)
        elif tensor.dtype != old_dtype or (pattern is not None and pattern.search(name)):
            kept += [name] if tensor.dtype.is_floating_point and tensor.dtype != new_dtype else []
        else:
            tensors[name] = CastTensor(tensor, new_dtype)
    return tensors, (*notes, *((f"dtype kept: {truncated_list(kept)}",) if kept else ()))


def _dequantized(
    checkpoint: Checkpoint, quantization: Quantization, dtype: torch.dtype, keep: re.Pattern[str] | None
) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """Return the tensors with FP8 weights dequantized and scales removed, and notes.

    Raises:
        CheckpointError: A scale is missing or invalid, or `keep` matches an FP8 weight, whose scale would be removed.
    """
    path, scales = checkpoint.path, quantization.scales
    if kept := [name for name in scales if keep is not None and keep.search(name)]:
        problem = f"is quantized (fp8), and {truncated_list(kept)} would be kept without a scale"
        raise CheckpointError(problem, option="--keep", file=path, hint="use a pattern that does not match FP8 weights")
    refuse_lost_scales(quantization.unscaled, path)
    dropped = {*scales.values(), *quantization.unused}
    compute_dtype = torch.float64 if dtype is torch.float64 else torch.float32
    tensors: dict[str, StoredTensor] = {n: tensor for n, tensor in checkpoint.items() if n not in dropped}
    for name, scale in scales.items():
        tensors[name] = ScaledTensor(
            name, checkpoint[name], checkpoint[scale], blocks=quantization.blocks, dtype=compute_dtype, file=path
        )
    notes = [f"quantized (fp8): dequantized {counted(len(scales))}"]
    if quantization.unused:
        notes.append(f"activation scales dropped: {truncated_list(quantization.unused)}")
    return tensors, tuple(notes)


def _shared_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return notes about tensors that share bytes in the source, such as tied weights in a `.bin`. All are written."""
    first: dict[object, str] = {}
    notes = []
    for name, tensor in checkpoint.items():
        if isinstance(tensor, FileTensor) and tensor.nbytes:
            key = (id(tensor.file), tensor.offset, tensor.shape, tensor.dtype)
            if (other := first.setdefault(key, name)) != name:
                notes.append(f"'{name}' and '{other}' share their bytes in the source, and both were written")
    return tuple(notes)
