"""Load and save weights in Hugging Face's sharded checkpoint format."""

from forgather_core.checkpoint import LoadReport, SaveReport, load_checkpoint, save_checkpoint

__all__ = ["LoadReport", "SaveReport", "load_checkpoint", "save_checkpoint"]
