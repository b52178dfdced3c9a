"""The Trainer of `forgather model train` and its parts, for training scripts. Importing this module loads torch.

from transformers import TrainingArguments
from forgather.training import Trainer, TrainingCallback

trainer = Trainer(model=model, args=TrainingArguments(...), train_dataset=rows)
trainer.train()
"""

from forgather_core.data.packed_stream import PackedStream
from forgather_core.training.combined_optimizer import training_optimizer
from forgather_core.training_run.evaluation import HeldOut, held_out_batches
from forgather_core.training_run.trainer import Trainer
from forgather_core.training_run.watch import TrainingCallback, TrainingRecord

__all__ = [
    "HeldOut",
    "PackedStream",
    "Trainer",
    "TrainingCallback",
    "TrainingRecord",
    "held_out_batches",
    "training_optimizer",
]
