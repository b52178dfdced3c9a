"""The number of processes of a check, and of checks."""

from __future__ import annotations

from ...runtime.cores import usable_cores
from .model_under_test import ModelUnderTest


def process_count(subject: ModelUnderTest, most: int) -> int:
    """Return the number of processes to use: one for each core, up to `most`; one for a full model, which is large."""
    return 1 if subject.full else min(usable_cores(), most)
