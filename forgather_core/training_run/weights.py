"""Load the weights of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoint import load_checkpoint
from ..checkpoint.read.plan import UnmatchedTensorsError


def load_all_weights(checkpoint: Path | str, model: Any, *, hint: str) -> None:
    """Load a checkpoint that must contain exactly the tensors of the model.

    Args:
        checkpoint: The checkpoint.
        model: The model.
        hint: What to do if tensors are missing or unexpected.

    Raises:
        UnmatchedTensorsError: Tensors are missing or unexpected.
        CheckpointError: The checkpoint cannot be read.
    """
    try:
        load_checkpoint(checkpoint, model, strict=True)
    except UnmatchedTensorsError as error:
        error.hint = hint
        raise
