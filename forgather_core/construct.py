"""`construct`: a model directory is prepared, the model built from it, weights loaded and saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BuildError, DirectoryError
from .export.directory import ModelDirectory, prepare_directory
from .export.manifest import read_manifest
from .files import directory_lock
from .settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from .checkpoint import LoadReport, SaveReport


@dataclass(frozen=True)
class Construction:
    """What `construct` made.

    Args:
        settings: What was asked for.
        directory: The model directory.
        model: The model.
        loaded: What was loaded, if anything was asked to be.
        saved: What was saved, if anything was asked to be.
    """

    settings: Settings
    directory: ModelDirectory
    model: nn.Module
    loaded: LoadReport | None
    saved: SaveReport | None


def construct(
    settings: Settings,
    *,
    project: Path = Path(),
    refresh: bool = False,
    keep: bool = False,
    on_wait: Callable[[], None] | None = None,
) -> Construction:
    """Prepare the directory, build the model, load and save as the settings say.

    Args:
        settings: The settled options.
        project: The project directory, where `output_models` lies.
        refresh: Rebuild an existing directory.
        keep: Use an existing directory as it is.
        on_wait: Called when another process holds the directory.

    Raises:
        ForgatherError: Anything a user can mend. What does not need the directory is checked before it is touched.
    """
    options = settings.build
    _refuse_meta_weights(settings)
    from .build import build, check_build
    from .checkpoint import Checkpoint, parse_size, save_checkpoint

    check_build(options, settings.options)
    shard_size = parse_size(options.max_shard_size)
    # Opened first: the checkpoint may lie in the very directory that is rebuilt.
    checkpoint = Checkpoint.open(options.load_from_checkpoint) if options.load_from_checkpoint is not None else None
    try:
        directory = prepare_directory(settings, settings.target(project), refresh=refresh, keep=keep, on_wait=on_wait)
        model = build(directory.path, options)
        loaded = checkpoint.load_into(model) if checkpoint is not None else None
    finally:
        if checkpoint is not None:
            checkpoint.close()
    saved = None
    if loaded is not None and loaded.missing and options.no_init_weights:
        names = ", ".join(item.name for item in loaded.missing[:3]) + (", ..." if len(loaded.missing) > 3 else "")
        raise BuildError(f"{loaded.path} lacks {names}, which --no-init-weights leaves unset: drop that flag")
    if options.save_checkpoint:
        with directory_lock(directory.path, on_wait=on_wait):
            _refuse_changed(directory)
            saved = save_checkpoint(directory.path, model, safetensors=options.safetensors, max_shard_size=shard_size)
    return Construction(settings, directory, model, loaded, saved)


def _refuse_changed(directory: ModelDirectory) -> None:
    """Weights go into the directory that the model was built from, and no other that took its place meanwhile."""
    now = read_manifest(directory.path)
    if now is None or now.to_json() != directory.manifest.to_json():
        raise DirectoryError(
            f"another process rebuilt {directory.path} while this one built its model: nothing was saved, run it again"
        )


def _refuse_meta_weights(settings: Settings) -> None:
    options = settings.build
    if options.device == "meta":
        for flag, given in (
            ("--save-checkpoint", options.save_checkpoint),
            ("--load-from-checkpoint", options.load_from_checkpoint),
        ):
            if given:
                raise BuildError(f"{flag} needs a real device, and the model is built on meta: add --device cpu")
    if options.save_checkpoint and options.no_init_weights and options.load_from_checkpoint is None:
        raise BuildError(
            "--save-checkpoint with --no-init-weights would save unset memory: load a checkpoint, or drop one"
        )
    if options.safetensors and not options.save_checkpoint:
        raise BuildError("--safetensors is a format of --save-checkpoint: add that flag")
