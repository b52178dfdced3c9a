"""Mistakes that implementations of language models have, each as one replacement in an exported model directory.

Every mistake changes the result for some input or configuration; a change without an effect is not a mistake and is not
in the catalogue. The replaced text is exact: if a source no longer contains it, applying the mutant is an error, and
`test_mutants.py` names the mutant.
"""

from .attention import ATTENTION, MASKS, WINDOWS
from .caches import CACHES, PACKING
from .layers import BLOCKS, DROPOUT
from .mutant import Mutant
from .options import OPTIONS, RUNTIME
from .positions import ALIBI, PADDING_AND_POSITIONS, ROTATION
from .training import GRADIENTS, LOSS
from .weights import WEIGHTS

__all__ = ["GROUPS", "MUTANTS", "Mutant"]

GROUPS = {
    "masks": MASKS,
    "windows": WINDOWS,
    "padding and positions": PADDING_AND_POSITIONS,
    "caches": CACHES,
    "rotation": ROTATION,
    "attention": ATTENTION,
    "ALiBi": ALIBI,
    "blocks": BLOCKS,
    "dropout": DROPOUT,
    "weights and buffers": WEIGHTS,
    "loss": LOSS,
    "packing": PACKING,
    "gradients": GRADIENTS,
    "run time": RUNTIME,
    "options": OPTIONS,
}
MUTANTS = [mutant for group in GROUPS.values() for mutant in group]
