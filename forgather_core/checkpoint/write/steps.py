"""Checkpoints of a training run, `checkpoints/checkpoint-N`: find the latest, name the next, rotate, and link one.

A directory counts as a checkpoint if it opens: its files exist, and the headers and the index are valid. A save into a
new directory is atomic, so a checkpoint that Forgather saved always opens.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ...deprecated import warn_renamed
from ...errors import CheckpointError
from ...filesystem.atomic import staging_directory
from ...filesystem.disk import sync_directory
from ...filesystem.paths import expanded
from ...filesystem.temporaries import sweep_marked
from ..formats.checksum import record
from ..formats.layout import DISTCP, Index, free_generation
from ..read.reader import Checkpoint
from .commit import commit_in_place, old_files, recover
from .locking import STAGING, hold_saves, saving_errors

CHECKPOINTS = "checkpoints"
_STEP = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class StepCheckpoint:
    """A numbered checkpoint of a training run.

    Args:
        step: Training step.
        path: Its directory.
        problem: The error message if it does not open, else None.
    """

    step: int
    path: Path
    problem: str | None = None


def step_checkpoints(directory: str | os.PathLike[str]) -> list[StepCheckpoint]:
    """Return the checkpoints of a model directory (or of its `checkpoints` directory), sorted by step.

    Broken checkpoints are included; their `problem` is the error message.
    """
    return sorted(_checked(_checkpoints_directory(directory)), key=lambda found: found.step)


def find_latest_checkpoint(directory: str | os.PathLike[str]) -> Path | None:
    """Return the checkpoint with the highest step that opens, or None."""
    for found in reversed(step_checkpoints(directory)):
        if found.problem is None:
            return found.path
    return None


def next_checkpoint_path(directory: str | os.PathLike[str], step: int | None = None) -> Path:
    """Return the path for the checkpoint of a step; by default the step after the last one, broken or not.

    Raises:
        CheckpointError: The step is negative.
    """
    if step is not None and step < 0:
        raise CheckpointError(f"must be at least 0, got {step}", option="step")
    checkpoints = _checkpoints_directory(directory)
    last = max((found.step for found in _numbered(checkpoints)), default=-1)
    return checkpoints / f"checkpoint-{last + 1 if step is None else step}"


def rotate_checkpoints(
    directory: str | os.PathLike[str], keep: int, *, best: str | os.PathLike[str] | None = None
) -> tuple[Path, ...]:
    """Remove the oldest checkpoints. Broken checkpoints are kept for inspection.

    Args:
        directory: The model directory, or its `checkpoints` directory.
        keep: Number of latest checkpoints to keep, at least 1.
        best: A checkpoint of the directory that is always kept. A linked checkpoint is always kept too.

    Returns:
        The checkpoints that were removed.

    Raises:
        CheckpointError: `keep` is less than 1, `best` is not a complete checkpoint of the directory, or a directory
            cannot be removed.
    """
    if keep < 1:
        problem = f"must be at least 1, because the last checkpoint is never removed; got {keep}"
        raise CheckpointError(problem, option="keep")
    checkpoints = _checkpoints_directory(directory)
    complete = [found for found in step_checkpoints(directory) if found.problem is None]
    kept = {found.path.resolve() for found in complete[-keep:]} | _linked(checkpoints) | _linked(checkpoints.parent)
    if best is not None:
        if (path := expanded(best).resolve()) not in {found.path.resolve() for found in complete}:
            problem = f"is not a complete checkpoint of {checkpoints}; nothing was removed"
            raise CheckpointError(
                problem, option="best", file=os.fspath(best), hint="pass a complete checkpoint of that directory"
            )
        kept.add(path)
    removed = []
    with saving_errors(checkpoints):
        for found in complete:
            if found.path.resolve() in kept:
                continue
            if found.path.is_symlink():
                found.path.unlink()
            else:
                # Renamed first, so that an interrupted removal leaves no partial checkpoint under this name.
                with staging_directory(found.path) as temporary:
                    found.path.rename(temporary)
                    shutil.rmtree(temporary)
            removed.append(found.path)
        if checkpoints.is_dir():
            sweep_marked(checkpoints, re.compile(r"checkpoint-\d+"))
        if removed:
            sync_directory(checkpoints)
    return tuple(removed)


def rotate(
    directory: str | os.PathLike[str], keep: int, *, best: str | os.PathLike[str] | None = None
) -> tuple[Path, ...]:
    """Call `rotate_checkpoints`; deprecated."""
    warn_renamed("rotate", "rotate_checkpoints")
    return rotate_checkpoints(directory, keep, best=best)


def link_checkpoint(directory: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None) -> Path:
    """Link the weight files of a checkpoint into its model directory, so that the directory loads as that checkpoint.

    The links have unused names and the index is replaced last, so that at every instant the directory loads as the
    previously linked checkpoint or as this one. A single file is linked with an index too: `save_pretrained` writes
    `model.safetensors`, and through a link of that name it would overwrite the checkpoint.

    Args:
        directory: The model directory.
        checkpoint: The checkpoint; None means the latest.

    Returns:
        The linked checkpoint.

    Raises:
        CheckpointError: There is no checkpoint, or the directory has its own weights, which links would replace.
    """
    root = expanded(directory)
    target = expanded(checkpoint) if checkpoint is not None else find_latest_checkpoint(root)
    if target is None:
        problem = f"has no checkpoint that opens, in {CHECKPOINTS}/checkpoint-N or checkpoint-N"
        raise CheckpointError(problem, file=root, hint="save one first")
    own = [name for name in old_files(root) if not (root / name).is_symlink() and not name.endswith(".json")]
    if own:
        hint = "move them, because links would replace them"
        raise CheckpointError(f"has its own weights ({own[0]})", file=root, hint=hint)
    with saving_errors(root), Checkpoint.open(target) as opened, hold_saves(root):
        origin = opened.entry.parent.resolve()  # links are relative to the real location
        if origin == root.resolve():
            hint = "name one of its checkpoints"
            raise CheckpointError("is the model directory itself", file=target, hint=hint)
        if opened.format is DISTCP:
            problem = "is a torch distributed checkpoint, which transformers cannot load"
            hint = "convert it with 'forgather checkpoint convert' first"
            raise CheckpointError(problem, file=target, hint=hint)
        names = list(opened.files)
        new = opened.format.shards(len(names), free_generation(root, opened.format, len(names)))
        renamed = dict(zip(names, new, strict=True))
        old = opened.index or Index({})
        metadata = dict(old.metadata) | {"linked": os.path.relpath(origin, root.resolve())}
        if old.checksums:
            # A checksum embedded in a weight file is read through the link, under the file's own name.
            known = old.checksums if opened.has_index else {}
            metadata = record(metadata, {renamed[n]: text for n, text in known.items() if n in renamed})
        index = replace(old, weight_map={t: renamed[opened.file_of(t)] for t in opened}, metadata=metadata)
        with staging_directory(root / STAGING, recover=partial(recover, root)) as staging:
            for name in names:
                (staging / renamed[name]).symlink_to(os.path.relpath(origin / name, root.resolve()))
            commit_in_place(root, staging, opened.format.index, index.to_json())
    return target


def _checkpoints_directory(directory: str | os.PathLike[str]) -> Path:
    """Return the directory of the numbered checkpoints: `checkpoints` in a model directory, or the directory itself."""
    path = expanded(directory)
    if path.name != CHECKPOINTS and ((path / CHECKPOINTS).is_dir() or not any(_numbered(path))):
        return path / CHECKPOINTS
    return path


def _numbered(checkpoints: Path) -> Iterator[StepCheckpoint]:
    for entry in checkpoints.iterdir() if checkpoints.is_dir() else ():
        if (step := _STEP.fullmatch(entry.name)) and entry.is_dir():
            yield StepCheckpoint(int(step[1]), entry)


def _checked(checkpoints: Path) -> Iterator[StepCheckpoint]:
    for found in _numbered(checkpoints):
        try:
            Checkpoint.open(found.path).close()
        except CheckpointError as error:
            yield replace(found, problem=str(error))
        else:
            yield found


def _linked(directory: Path) -> set[Path]:
    """Return the directories that the weight files of a model directory link to."""
    links = [directory / name for name in old_files(directory)] if directory.is_dir() else []
    return {link.resolve().parent for link in links if link.is_symlink()}
