"""Weights on disk, in Hugging Face's sharded format: found, read into a model, written from one."""

from .layout import parse_size
from .load import load_checkpoint, load_into
from .reader import Checkpoint
from .report import LoadReport, MissingTensor, OtherShape
from .save import SaveReport, save_checkpoint

__all__ = [
    "Checkpoint",
    "LoadReport",
    "MissingTensor",
    "OtherShape",
    "SaveReport",
    "load_checkpoint",
    "load_into",
    "parse_size",
    "save_checkpoint",
]
