"""A checkpoint in another format, dtype or shard size: tensor by tensor, never whole in memory."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import torch

from ..dtypes import parse_dtype
from ..errors import CheckpointError
from ..files import new_directory
from ..option_spec import did_you_mean
from ..paths import expanded
from .companions import CONFIG, Step, step_for, write_companions
from .layout import BIN, SAFETENSORS, Format, parse_size
from .reader import Checkpoint, Progress
from .save import Job, SaveReport, save_alone, saving_errors, superseded
from .stored import CastTensor, FileTensor, StoredTensor
from .wording import listed
from .write import main_dtype

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
    on_verify: Progress | None = None,
    on_progress: Progress | None = None,
) -> SaveReport:
    """Write a checkpoint anew.

    Args:
        source: A directory, a weight file, an index, or a repository of the hub.
        target: A new directory, which gets the other files of the source's too; or the source itself.
        format: `safetensors` or `bin`; None keeps the source's.
        dtype: A floating-point dtype. It replaces the one that most numbers have; tensors of another, such as float32
            among bfloat16, are so for a reason and stay.
        keep: A regular expression; tensors in whose name it is found keep their dtype.
        max_shard_size: Bytes, or a size such as "500MB".
        verify_checksums: Compare every file with its recorded SHA-256 first.
        on_verify, on_progress: Called with the bytes done and the bytes in all.

    Raises:
        CheckpointError: The source is damaged, or the target is there, or cannot be written.
    """
    limit = parse_size(max_shard_size)
    place = expanded(target)
    with Checkpoint.open(expanded(source)) as checkpoint:
        for tensor in checkpoint.values():
            tensor.check()
        if verify_checksums:
            checkpoint.verify(on_verify)
        chosen = _format(format) if format is not None else checkpoint.format
        tensors, notes = _converted(checkpoint, dtype, keep)
        job = Job(tensors, chosen, limit, on_progress, notes=(*notes, *_shared(checkpoint)))
        origin = checkpoint.entry.parent
        with saving_errors(place):
            if place.is_dir() and origin.samefile(place):
                return save_alone(job, place)
            return _anew(job, None if checkpoint.path.is_file() else origin, place)


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise CheckpointError(f"--format: '{name}' is none of {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
    return FORMATS[name]


def _anew(job: Job, origin: Path | None, place: Path) -> SaveReport:
    with new_directory(place, lambda: _refuse_taken(place)) as staging:
        if origin is not None:
            _copy_others(origin, staging, job)
        written = job.write_into(staging)
    return job.report(place, written)


def _refuse_taken(place: Path) -> None:
    if os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir())):
        raise CheckpointError(f"{place} is there already: choose a new directory, or convert the source in place")


def _copy_others(origin: Path, staging: Path, job: Job) -> None:
    """The files beside the weights; not directories, in which other checkpoints may lie."""
    left = superseded(origin)
    others = [entry for entry in origin.iterdir() if entry.is_file() and entry.name not in left]
    for file in others:
        shutil.copy2(file, staging / file.name)
    dtype = main_dtype(job.tensors)
    if step_for(None, origin, dtype) is Step.DTYPE:
        (staging / CONFIG).unlink()
        write_companions(None, Step.DTYPE, origin, staging, dtype)


def _converted(
    checkpoint: Checkpoint, dtype: str | None, keep: str | None
) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    tensors: dict[str, StoredTensor] = dict(checkpoint)
    if dtype is None:
        if keep is not None:
            raise CheckpointError("--keep names tensors that keep their dtype: give the others one with --dtype")
        return tensors, ()
    new = parse_dtype(dtype)
    old = getattr(torch, main_dtype(tensors) or "float32")
    try:
        pattern = re.compile(keep) if keep is not None else None
    except re.error as error:
        raise CheckpointError(f"--keep: '{keep}' is no regular expression: {error}") from None
    kept = []
    for name, tensor in tensors.items():
        if tensor.dtype != old or (pattern is not None and pattern.search(name)):
            kept += [name] if tensor.dtype.is_floating_point and tensor.dtype != new else []
        else:
            tensors[name] = CastTensor(tensor, new)
    return tensors, ((f"these keep their dtype: {listed(kept)}",) if kept else ())


def _shared(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names that are the same bytes in the source, as in a .bin of tied weights: they become one each."""
    first: dict[object, str] = {}
    notes = []
    for name, tensor in checkpoint.items():
        if isinstance(tensor, FileTensor) and tensor.nbytes:
            key = (id(tensor.file), tensor.offset, tensor.shape, tensor.dtype)
            if (other := first.setdefault(key, name)) != name:
                notes.append(f"'{name}' and '{other}' share their values in the source: both were written")
    return tuple(notes)
