"""Weights on disk, in Hugging Face's sharded format: found, read into a model, written from one."""

from .convert import convert_checkpoint
from .formats.layout import parse_size
from .inspect import inspect_checkpoint
from .read.load import load_checkpoint, load_into
from .read.reader import Checkpoint
from .report import LoadReport, MissingTensor, OtherShape, SaveReport
from .write.save import save_checkpoint
from .write.steps import (
    StepCheckpoint,
    find_latest_checkpoint,
    link_checkpoint,
    next_checkpoint_path,
    rotate_checkpoints,
    step_checkpoints,
)

__all__ = [
    "Checkpoint",
    "LoadReport",
    "MissingTensor",
    "OtherShape",
    "SaveReport",
    "StepCheckpoint",
    "convert_checkpoint",
    "find_latest_checkpoint",
    "inspect_checkpoint",
    "link_checkpoint",
    "load_checkpoint",
    "load_into",
    "next_checkpoint_path",
    "parse_size",
    "rotate_checkpoints",
    "save_checkpoint",
    "step_checkpoints",
]
