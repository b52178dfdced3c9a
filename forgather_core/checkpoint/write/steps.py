"""Checkpoints of a training run, `checkpoints/checkpoint-N`: the latest, the next, those that may go, and links to one.

A step counts as a checkpoint if it opens: files there, headers sound, index kept. A save into a new directory appears
under its name whole or not at all, so that a step of ours always does.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ...errors import CheckpointError
from ...filesystem.atomic import staging_directory
from ...filesystem.disk import sync_directory
from ...filesystem.paths import expanded
from ...filesystem.temporaries import sweep_marked
from ..formats.checksum import record
from ..formats.layout import Index, free_generation
from ..read.reader import Checkpoint
from .commit import commit_in_place, old_files, settle
from .save import STAGING, hold_saves, saving_errors

CHECKPOINTS = "checkpoints"
_STEP = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class StepCheckpoint:
    """One of them.

    Args:
        step: Its number.
        path: Its directory.
        problem: Why it does not open; None if it does.
    """

    step: int
    path: Path
    problem: str | None = None


def step_checkpoints(directory: str | os.PathLike[str]) -> list[StepCheckpoint]:
    """Those of a model directory (or of the directory that holds them), by step; also the broken ones."""
    return sorted(_found(_place(directory)), key=lambda found: found.step)


def find_latest_checkpoint(directory: str | os.PathLike[str]) -> Path | None:
    """The one with the highest step that opens; None where there is none."""
    for found in reversed(step_checkpoints(directory)):
        if found.problem is None:
            return found.path
    return None


def next_checkpoint_path(directory: str | os.PathLike[str], step: int | None = None) -> Path:
    """Where the checkpoint of a step goes; without one, the step after the last, be that sound or not.

    Raises:
        CheckpointError: The step is negative.
    """
    if step is not None and step < 0:
        raise CheckpointError(f"a checkpoint of step {step} cannot be: steps count from 0")
    place = _place(directory)
    last = max((found.step for found in _numbered(place)), default=-1)
    return place / f"checkpoint-{last + 1 if step is None else step}"


def rotate_checkpoints(
    directory: str | os.PathLike[str], keep: int, *, best: str | os.PathLike[str] | None = None
) -> tuple[Path, ...]:
    """Remove the oldest checkpoints. Those that do not open stay: what is broken is for a person to look at.

    Args:
        directory: The model directory, or the one that holds the checkpoints.
        keep: How many of the latest stay, at least one.
        best: One that stays in any case. So does one that links of the model directory lead to.

    Returns:
        What was removed.

    Raises:
        CheckpointError: Nothing would be kept, or a directory cannot be removed.
    """
    if keep < 1:
        raise CheckpointError(f"keep {keep} checkpoints: the last one always stays, so that is at least 1")
    place = _place(directory)
    sound = [found for found in step_checkpoints(directory) if found.problem is None]
    kept = {found.path.resolve() for found in sound[-keep:]} | _linked(place) | _linked(place.parent)
    kept |= {expanded(best).resolve()} if best is not None else set()
    removed = []
    with saving_errors(place):
        for found in sound:
            if found.path.resolve() in kept:
                continue
            if found.path.is_symlink():
                found.path.unlink()
            else:
                # Renamed first: a removal that is interrupted leaves no half checkpoint under a checkpoint's name.
                with staging_directory(found.path) as doomed:
                    found.path.rename(doomed)
                    shutil.rmtree(doomed)
            removed.append(found.path)
        if place.is_dir():
            sweep_marked(place, re.compile(r"checkpoint-\d+"))
        if removed:
            sync_directory(place)
    return tuple(removed)


def link_checkpoint(directory: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None) -> Path:
    """Make a model directory load as one of its checkpoints, the latest by default, by links to its files.

    The links have names that are free and the index is replaced last, so that at every instant the directory loads as
    the one that was linked before or as this one. A single file is linked with an index too: `save_pretrained` writes
    `model.safetensors`, which would go through a link of that name into the checkpoint.

    Returns:
        The checkpoint that is linked.

    Raises:
        CheckpointError: There is none, or the directory has weights of its own, which links would replace.
    """
    place = expanded(directory)
    target = expanded(checkpoint) if checkpoint is not None else find_latest_checkpoint(place)
    if target is None:
        raise CheckpointError(f"{place} has no checkpoint that opens, in {CHECKPOINTS}/checkpoint-N or checkpoint-N")
    own = [name for name in old_files(place) if not (place / name).is_symlink() and not name.endswith(".json")]
    if own:
        raise CheckpointError(f"{place} has weights of its own ({own[0]}): move them away, links would replace them")
    with saving_errors(place), Checkpoint.open(target) as opened, hold_saves(place):
        origin = opened.entry.parent.resolve()  # a link is followed from where it really is
        if origin == place.resolve():
            raise CheckpointError(f"{target} is the directory itself: name one of its checkpoints")
        names = list(opened.files)
        new = opened.format.shards(len(names), free_generation(place, opened.format, len(names)))
        renamed = dict(zip(names, new, strict=True))
        old = opened.index or Index({})
        metadata = dict(old.metadata) | {"linked": os.path.relpath(origin, place.resolve())}
        if old.checksums:
            # One in the weight file stays there, where it is found through the link.
            known = old.checksums if opened.has_index else {}
            metadata = record(metadata, {renamed[n]: text for n, text in known.items() if n in renamed})
        index = replace(old, weight_map={t: renamed[opened.file_of(t)] for t in opened}, metadata=metadata)
        with staging_directory(place / STAGING, settle=partial(settle, place)) as staging:
            for name in names:
                (staging / renamed[name]).symlink_to(os.path.relpath(origin / name, place.resolve()))
            commit_in_place(place, staging, opened.format.index, index.to_json())
    return target


def _place(directory: str | os.PathLike[str]) -> Path:
    """Where the numbered directories are: `checkpoints` in a model directory, or right there."""
    path = expanded(directory)
    if path.name != CHECKPOINTS and ((path / CHECKPOINTS).is_dir() or not any(_numbered(path))):
        return path / CHECKPOINTS
    return path


def _numbered(place: Path) -> Iterator[StepCheckpoint]:
    for entry in place.iterdir() if place.is_dir() else ():
        if (step := _STEP.fullmatch(entry.name)) and entry.is_dir():
            yield StepCheckpoint(int(step[1]), entry)


def _found(place: Path) -> Iterator[StepCheckpoint]:
    for found in _numbered(place):
        try:
            Checkpoint.open(found.path).close()
        except CheckpointError as error:
            yield replace(found, problem=str(error))
        else:
            yield found


def _linked(directory: Path) -> set[Path]:
    """The directories that the weight files of a model directory lead to."""
    links = [directory / name for name in old_files(directory)] if directory.is_dir() else []
    return {link.resolve().parent for link in links if link.is_symlink()}
