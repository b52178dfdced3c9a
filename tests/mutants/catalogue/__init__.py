"""Typical mistakes in implementations of language models, each as one replacement in an exported model directory.

Every mistake changes the result for some input or configuration; changes without an effect are not in the catalogue.
The replaced text is exact: if a source no longer contains it, applying the mutant is an error, and `test_mutants.py`
shows the nearest passage. Each entry names the check that must find it.
"""

from . import (
    alibi,
    attention,
    blind,
    blocks,
    caches,
    directory,
    dropout,
    gradients,
    layers,
    loss,
    masks,
    options,
    packing,
    positions,
    rotary,
    runtime,
    weights,
    windows,
)
from .mutant import Mutant

__all__ = ["GROUPS", "MUTANTS", "Mutant", "named"]

GROUPS = {
    "masks": masks.MUTANTS,
    "windows": windows.MUTANTS,
    "padding and positions": positions.MUTANTS,
    "caches": caches.MUTANTS,
    "RoPE": rotary.MUTANTS,
    "attention": attention.MUTANTS,
    "ALiBi": alibi.MUTANTS,
    "blocks": blocks.MUTANTS,
    "dropout": dropout.MUTANTS,
    "weights and buffers": weights.MUTANTS,
    "loss": loss.MUTANTS,
    "packing": packing.MUTANTS,
    "gradients": gradients.MUTANTS,
    "run time": runtime.MUTANTS,
    "options": options.MUTANTS,
    "calls and files": directory.MUTANTS,
    "layers that differ": layers.MUTANTS,
    "blind set": blind.MUTANTS,
}
MUTANTS = [mutant for group in GROUPS.values() for mutant in group]


def named(name: str) -> Mutant:
    """Return the mutant of this name."""
    return next(mutant for mutant in MUTANTS if mutant.name == name)
