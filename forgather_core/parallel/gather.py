"""Gather whole tensors of a sharded model, in every process another one at a time.

Each process needs some of the tensors, and all processes hold parts of each. In a round every process gets the next
tensor that it needs, so that all receive at once, and none holds more than one whole tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..parts.weight_pieces import local_part
from .processes import Processes

Part = tuple[tuple[int, int], ...]  # offset and size in each dimension
Holders = Mapping[Part, Sequence[int]]


def holders_of(shapes: Mapping[str, Sequence[int]], parts: Sequence[Mapping[str, Part]]) -> dict[str, Holders]:
    """Return the ranks that hold each part of each tensor.

    Args:
        shapes: The shapes of the whole tensors.
        parts: The part of each tensor that each rank holds.

    Raises:
        CheckpointError: The parts do not make up a tensor.
    """
    found: dict[str, dict[Part, list[int]]] = {name: {} for name in shapes}
    for rank, held in enumerate(parts):
        for name in shapes:
            if prod(size for _, size in held[name]):
                found[name].setdefault(held[name], []).append(rank)
    for name, shape in shapes.items():
        if sum(prod(size for _, size in part) for part in found[name]) != prod(shape):
            hint = "shard it with distribute_tensor, fully_shard or parallelize_module"
            raise CheckpointError(f"the processes do not hold '{name}' once, in parts or as copies", hint=hint)
    return dict(found)


class _Round(NamedTuple):
    whole: Tensor | None
    sends: list[tuple[Tensor, int]]
    receives: list[tuple[Tensor, int]]
    filled: list[tuple[Tensor, Tensor]]  # a part of `whole`, and the tensor that is received for it


class Gather:
    """The rounds in which all processes get their tensors.

    Args:
        processes: The processes.
        tensors: The sharded tensors by name, the same names in every process.
        holders: For each tensor, its parts and the ranks that hold them.
        schedule: For each rank, the names of the tensors that it gets, in order.
    """

    def __init__(
        self,
        processes: Processes,
        tensors: Mapping[str, Tensor],
        holders: Mapping[str, Holders],
        schedule: Sequence[Sequence[str]],
    ) -> None:
        self._processes, self._tensors, self._holders, self._schedule = processes, tensors, holders, schedule
        self._round = 0
        self._failed: Exception | None = None  # all processes have it

    def next(self, name: str) -> Tensor:
        """Return this process's next tensor, on the CPU.

        Args:
            name: Its name.

        Raises:
            CheckpointError: Another process has an error, or has died.
        """
        assert self._schedule[self._processes.rank][self._round] == name
        whole = self._run()
        assert whole is not None
        return whole

    def finish(self, error: Exception | None = None) -> None:
        """Send parts to the others until all have their tensors.

        Args:
            error: An error of this process, for which all processes stop.

        Raises:
            CheckpointError: A process has this error, or has died.
        """
        if self._failed is not None:
            raise self._failed
        if error is None:
            while self._round < max(map(len, self._schedule)):
                self._run()
        self._processes.agree(error)

    def _run(self) -> Tensor | None:
        """Run a round, and return the tensor that this process gets in it."""
        made, error = None, None
        try:
            made = self._prepared()
        except Exception as failure:  # such as memory that ran out: the others must not wait for this process
            error = failure
        try:
            self._processes.agree(error)
            assert made is not None
            whole, sends, receives, filled = made
            self._processes.exchange(sends, receives)
        except Exception as failure:
            self._failed = failure
            raise
        for target, received in filled:
            if target is not received:
                target.copy_(received)
        self._round += 1
        return whole

    def _prepared(self) -> _Round:
        """Return the tensor that this process gets in this round, and what it sends and receives."""
        here, device = self._processes.rank, self._processes.device
        made = _Round(None, [], [], [])
        for rank, names in enumerate(self._schedule):
            if self._round >= len(names):
                continue
            name = names[self._round]
            tensor = self._tensors[name]
            local = local_part(tensor, name)[0]
            # Of the processes that hold the same part: this one, or another one for each process.
            sources = {
                rank if rank in ranks else ranks[rank % len(ranks)]: box for box, ranks in self._holders[name].items()
            }
            if rank != here:
                if here in sources:
                    made.sends.append((_bytes_of(local.contiguous().to(device)), rank))
                continue
            whole = torch.empty(tensor.shape, dtype=tensor.dtype)
            for source, box in sources.items():
                target = whole[tuple(slice(at, at + size) for at, size in box)] if whole.dim() else whole
                if source == here:
                    target.copy_(local)
                    continue
                is_ready = device.type == "cpu" and target.is_contiguous()
                received = target if is_ready else torch.empty(target.shape, dtype=target.dtype, device=device)
                made.receives.append((_bytes_of(received), source))
                made.filled.append((target, received))
            made = made._replace(whole=whole)
        return made


def _bytes_of(tensor: Tensor) -> Tensor:
    """Return the bytes of a contiguous tensor, in its memory."""
    return tensor.view(-1).view(torch.uint8)
