"""The random state of each part of a step's rows: dropout of one part does not repeat that of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..filesystem.strict_json import read_object
from .evaluation import Part

POSITION = "data_position.json"


def parts_of(part: Part) -> dict[str, Any]:
    """Return the entries of a checkpoint about the processes that saved it."""
    return {"parts": part.count, "copies": part.copies}


def has_same_parts(checkpoint: Path, part: Part) -> bool:
    """Return whether a checkpoint was saved by processes with the same parts: each then finds its random state."""
    file = checkpoint / POSITION
    return not file.is_file() or parts_of(part).items() <= (parts_of(part) | read_object(file)).items()


def begin_random_state(seed: int, part: Part, step: int) -> None:
    """Seed torch's generators for a part, the same in all processes that compute it.

    Args:
        seed: The seed of the run.
        part: The part of this process.
        step: The number of steps so far: a run that continues over other processes draws new numbers.
    """
    torch.manual_seed(seed + part.index + part.count * step)
