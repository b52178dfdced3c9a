"""Modules that the processes of `ranks.py` have in common: they are imported once."""

import torch.distributed.fsdp
import transformers

import forgather_core.checkpoint
import forgather_core.checkpoint.write.sharded

__all__ = ["forgather_core", "torch", "transformers"]
