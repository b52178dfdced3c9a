"""The rows of each batch that a process computes, and sums over the processes that share a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.batches import IGNORE_INDEX

if TYPE_CHECKING:
    from ..parallel.mesh import Mesh


@dataclass(frozen=True)
class RowShare:
    """One of several equal parts of each batch.

    Args:
        index: The number of the part, from 0.
        count: The number of parts.
        copies: The number of processes that compute the same part.
    """

    index: int = 0
    count: int = 1
    copies: int = 1

    @classmethod
    def of(cls, mesh: Mesh | None) -> RowShare | None:
        """Return the part of a process of a mesh; None if it computes whole batches alone."""
        return None if mesh is None else cls(mesh.data_rank, mesh.sizes.data, mesh.sizes.tp)

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the rows of this part, and as `num_items_in_batch` the number of targets of the whole batch.

        Args:
            batch: Inputs [B, T], with labels; B is a multiple of the number of parts.
        """
        targets = (batch["labels"][:, 1:] != IGNORE_INDEX).sum()
        rows = {name: tensor.chunk(self.count)[self.index] for name, tensor in batch.items()}
        return rows | {"num_items_in_batch": targets}

    def loss_of_part(self, loss: Tensor) -> Tensor:
        """Return the loss for backward: the model averages the gradients of the parts, whose sum is that of the batch.

        Args:
            loss: The loss of this part, with the targets of the whole batch as `num_items_in_batch`.
        """
        return loss * self.count

    def first_finding(self, found: str | None) -> str | None:
        """Return the finding of the first process that has one, the same in all processes; None if none has one."""
        everyone: list[str | None] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, found)
        return next((each for each in everyone if each is not None), None)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a scalar over the parts, the same in all processes."""
        whole = value.detach().clone()
        torch.distributed.all_reduce(whole)
        return whole / self.copies
