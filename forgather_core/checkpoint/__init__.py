"""Weights on disk, in Hugging Face's sharded format: found, read into a model, written from one."""

from .layout import parse_size
from .load import Checkpoint, LoadReport, MissingTensor, load_checkpoint
from .save import SaveReport, save_checkpoint

__all__ = [
    "Checkpoint",
    "LoadReport",
    "MissingTensor",
    "SaveReport",
    "load_checkpoint",
    "parse_size",
    "save_checkpoint",
]
