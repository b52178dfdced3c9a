"""Save a checkpoint atomically and durably."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import CheckpointError
from ...filesystem.paths import expanded
from ...model.wrappers import ADAPTERS_NOT_SAVED, Wrapped
from ...parts.weight_pieces import is_sharded
from ..formats.layout import BIN, SAFETENSORS, parse_size
from ..read.reader import ByteProgress
from ..report import SaveReport
from .locking import saving_errors
from .save_job import Job, save_with_locks
from .sharded import save_sharded
from .state import model_state


def save_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    safetensors: bool = False,
    max_shard_size: int | str = "5GB",
    on_progress: ByteProgress | None = None,
    on_wait: Callable[[], None] | None = None,
) -> SaveReport:
    """Save a model's parameters and persistent buffers in Hugging Face's sharded format.

    At any time the directory loads as the complete old checkpoint or as the complete new one. On return the new
    checkpoint is durable, and the files of the old checkpoint, of either format, are removed. The configuration of a
    transformers model is saved too. If the directory has another configuration, it is replaced in the same step as the
    weights. If it has none, the configuration is written, with the source files of the model if there are any.

    A wrapped model (torch.compile, data parallelism, FSDP1, activation checkpointing, PEFT, in any nesting) is saved by
    the names of the innermost model. PEFT adapters are not saved, and a warning reports this. Save them with
    PEFT's `save_pretrained`. With DDP only rank 0 writes, and the other processes return immediately. FSDP1 gathers
    the weights: every process must call this function, and all return when rank 0 has saved. If weights are sharded
    over a device mesh (FSDP2, tensor parallelism), every process must call this function, too, and writes files of its
    own at the same time; `path` must be on a file system that all processes share. All return the same report, or
    raise the same error.

    Args:
        path: The directory; it is created if necessary.
        model: The model, on any device except meta. Tied tensors are saved once.
        safetensors: Save as safetensors; otherwise in the format of `torch.save`, as `.bin`.
        max_shard_size: Bytes, or a size such as "500MB". A larger tensor gets its own file.
        on_progress: Called with the bytes written and the total bytes.
        on_wait: Called when this process waits for another process that is saving there.

    Raises:
        CheckpointError: The model is on meta, its weights have adapters merged into them, or the directory cannot be
            written; the old checkpoint is then intact.
    """
    limit, directory, wrapped = parse_size(max_shard_size), expanded(path), Wrapped.of(model)
    split = any(map(is_sharded, wrapped.root.parameters()))
    if split and (wrapped.has_ddp or wrapped.has_fsdp):
        problem = "a model that is sharded over a device mesh cannot be saved from within DDP or FSDP1"
        raise CheckpointError(problem, hint="save the model that it wraps")
    if wrapped.rank and not wrapped.has_fsdp:
        return SaveReport(directory, (), 0, 0, {}, (f"rank {wrapped.rank} writes nothing: rank 0 saves the model",))
    wrapped.refuse_merged()

    def save(job: Job) -> SaveReport:
        with saving_errors(directory):
            return save_with_locks(job, directory, on_wait)

    report = _save_by(save, wrapped, directory, safetensors=safetensors, limit=limit, on_progress=on_progress)
    for note in report.notes:
        if note.startswith(ADAPTERS_NOT_SAVED):
            warnings.warn(note, stacklevel=2)
    return report


def _save_gathered(wrapped: Wrapped, save: Callable[[], SaveReport]) -> SaveReport:
    """Save on rank 0 the weights that FSDP1 gathers from all ranks. All ranks return the same report or error."""
    outcome: SaveReport | Exception | None = None
    if wrapped.rank == 0:
        try:
            outcome = save()
        except Exception as error:  # the other ranks wait for the outcome
            outcome = error
    outcome = wrapped.broadcast(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    assert outcome is not None
    return outcome


def save_model(
    model: nn.Module,
    save: Callable[[Job], SaveReport],
    directory: Path,
    *,
    safetensors: bool,
    limit: int,
    on_progress: ByteProgress | None = None,
) -> SaveReport:
    """Save a model by a function that also commits its directory. All processes of a sharded model must call this.

    Args:
        model: The model.
        save: Saves and commits; of several processes, the first calls it.
        directory: The directory.
        safetensors, limit, on_progress: See `save_checkpoint`.

    Raises:
        CheckpointError: The model has tensors without values, or of an unsupported kind.
    """
    how: dict[str, Any] = {"safetensors": safetensors, "limit": limit, "on_progress": on_progress}
    return _save_by(save, Wrapped.of(model), directory, **how)


def _save_by(save: Callable[[Job], SaveReport], wrapped: Wrapped, directory: Path, **how: Any) -> SaveReport:
    """Save by a function, of several processes together if the weights are sharded."""
    split = any(map(is_sharded, wrapped.root.parameters()))
    values = wrapped.state(keep_vars=split)  # a tied tensor without a local part is known by the object
    make = partial(_job_of, wrapped, values, **how)
    if split:
        return save_sharded(make, values, save, directory)
    return _save_gathered(wrapped, lambda: save(make())) if wrapped.has_fsdp else save(make())


def _job_of(
    wrapped: Wrapped, values: Mapping[str, Any], *, safetensors: bool, limit: int, on_progress: ByteProgress | None
) -> Job:
    model, state = wrapped.base, model_state(wrapped, values)
    if not state.tensors:
        raise CheckpointError(f"{type(model).__name__} has no tensors to save", hint="pass a model with parameters")
    return Job(state.tensors, SAFETENSORS if safetensors else BIN, limit, on_progress, model, state.notes)
