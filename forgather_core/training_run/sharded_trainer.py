"""The Trainer of a model that is distributed over a device mesh, with checkpoints that continue on any other mesh.

The state of the optimizer is saved by torch.distributed.checkpoint, by the names of the parameters.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers.trainer import SCHEDULER_NAME

from ..parallel.mesh import Mesh
from .evaluation import Part
from .optimizer_state import save_optimizer
from .trainer import Trainer


class ShardedTrainer(Trainer):
    """The Trainer of a model over a mesh.

    Args:
        mesh: The mesh.
        args: The arguments of the Trainer.
        kwargs: Further arguments of `Trainer`.
    """

    def __init__(self, *, mesh: Mesh, args: Any, **kwargs: Any) -> None:
        self._mesh = mesh
        # transformers refuses to save the state of an optimizer of a distributed model; this class does it.
        without_state = copy.copy(args)
        without_state.save_only_model = True
        super().__init__(args=without_state, **kwargs)
        self.args.save_only_model = args.save_only_model

    def _data_part(self) -> Part:
        """Return the part of the data that this process reads: that of its group of tensor parallelism."""
        sizes = self._mesh.sizes
        return Part(self._mesh.data_rank, sizes.data, copies=sizes.tp, together=True)

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator, without tensor parallelism, which it refuses on CPUs: the model itself has it."""
        size, self.model._tp_size = self.model._tp_size, None
        try:
            super().create_accelerator_and_postprocess()
        finally:
            self.model._tp_size = size

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of this process. Each process reads the whole stream."""
        part = self._data_part()
        rows = _Rows(self.train_dataset, self.args.train_batch_size, part)
        return DataLoader(rows, batch_size=self.args.train_batch_size, collate_fn=self.data_collator)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        save_optimizer(self.model, self.optimizer, Path(output_dir))
        if self.args.should_save:
            with warnings.catch_warnings(action="ignore"):
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _has_named_state(self, checkpoint: Path) -> bool:
        return True  # torch's numbered state is loaded by names, too


class _Rows(IterableDataset[dict[str, Tensor]]):
    """The rows of a part: of every `count` batches of a dataset, one."""

    def __init__(self, dataset: Any, batch_size: int, part: Part) -> None:
        self._dataset, self._batch_size, self._part = dataset, batch_size, part

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for number, row in enumerate(self._dataset):
            if number // self._batch_size % self._part.count == self._part.index:
                yield row
