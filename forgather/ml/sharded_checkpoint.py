"""Load and save weights in Hugging Face's sharded checkpoint format, and keep the checkpoints of a training run."""

from forgather_core.checkpoint import (
    LoadReport,
    SaveReport,
    StepCheckpoint,
    convert_checkpoint,
    find_latest_checkpoint,
    inspect_checkpoint,
    link_checkpoint,
    load_checkpoint,
    next_checkpoint_path,
    rotate_checkpoints,
    save_checkpoint,
    step_checkpoints,
)

__all__ = [
    "LoadReport",
    "SaveReport",
    "StepCheckpoint",
    "convert_checkpoint",
    "find_latest_checkpoint",
    "inspect_checkpoint",
    "link_checkpoint",
    "load_checkpoint",
    "next_checkpoint_path",
    "rotate_checkpoints",
    "save_checkpoint",
    "step_checkpoints",
]
