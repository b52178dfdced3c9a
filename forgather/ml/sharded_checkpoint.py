"""Load and save weights in Hugging Face's sharded checkpoint format, and manage the checkpoints of a training run."""

from forgather_core import checkpoint as _core
from forgather_core.checkpoint import (
    LoadReport,
    SaveReport,
    StepCheckpoint,
    rotate,  # noqa: F401 - deprecated, not listed in __all__
)

from ..public import public as _public

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

convert_checkpoint = _public(exclusive=False)(_core.convert_checkpoint)
find_latest_checkpoint = _public(exclusive=False)(_core.find_latest_checkpoint)
inspect_checkpoint = _public(exclusive=False)(_core.inspect_checkpoint)
link_checkpoint = _public(exclusive=False)(_core.link_checkpoint)
load_checkpoint = _public()(_core.load_checkpoint)
next_checkpoint_path = _public(exclusive=False)(_core.next_checkpoint_path)
rotate_checkpoints = _public(exclusive=False)(_core.rotate_checkpoints)
save_checkpoint = _public(exclusive=False)(_core.save_checkpoint)
step_checkpoints = _public(exclusive=False)(_core.step_checkpoints)
