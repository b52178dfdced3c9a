"""Collective operations of a traced model, and the bytes that they move over the links of a device.

The costs are those of ring algorithms, as nccl-tests' bus bandwidth assumes them
(https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..errors import BuildError

ALL_GATHER, REDUCE_SCATTER, ALL_REDUCE, ALL_TO_ALL = "all-gather", "reduce-scatter", "all-reduce", "all-to-all"
_PASSES = {ALL_GATHER: 1, REDUCE_SCATTER: 1, ALL_REDUCE: 2, ALL_TO_ALL: 1}  # all-reduce: reduce-scatter and all-gather


@dataclass(frozen=True)
class Collective:
    """A collective operation.

    Args:
        axis: The axis of the mesh: ddp, fsdp or tp.
        kind: all-gather, reduce-scatter, all-reduce or all-to-all.
        phase: The phase of the program.
        devices: The number of devices that take part.
        payload: Bytes of the whole tensor: the result of an all-gather, the input of the others.
    """

    axis: str
    kind: str
    phase: str
    devices: int
    payload: int

    @property
    def wire_bytes(self) -> float:
        """Bytes that each device sends, and receives, in a ring: (n - 1)/n of the payload, twice in an all-reduce."""
        return _PASSES[self.kind] * self.payload * (self.devices - 1) / self.devices


class _Operator(NamedTuple):
    """The arguments of an operator.

    Args:
        kind: The kind of collective.
        payload: The position of the payload.
        group: The position of the group.
        factor: Returns the size of the payload divided by that of the argument, given the number of devices.
    """

    kind: str
    payload: int
    group: int
    factor: Callable[[int], int] = lambda _: 1


_OPERATORS: Mapping[str, _Operator] = {
    "c10d::_allgather_base_": _Operator(ALL_GATHER, 0, 2),
    "c10d::_reduce_scatter_base_": _Operator(REDUCE_SCATTER, 1, 2),
    "c10d::allreduce_": _Operator(ALL_REDUCE, 0, 1),
    "c10d::allgather_": _Operator(ALL_GATHER, 0, 2),
    "c10d::reduce_scatter_": _Operator(REDUCE_SCATTER, 1, 2),
    "c10d::alltoall_base_": _Operator(ALL_TO_ALL, 1, 2),
    "_c10d_functional::all_reduce": _Operator(ALL_REDUCE, 0, 2),
    "_c10d_functional::all_reduce_": _Operator(ALL_REDUCE, 0, 2),
    "_c10d_functional::all_gather_into_tensor": _Operator(ALL_GATHER, 0, 2, lambda devices: devices),
    "_c10d_functional::reduce_scatter_tensor": _Operator(REDUCE_SCATTER, 0, 3),
    "_c10d_functional::all_to_all_single": _Operator(ALL_TO_ALL, 0, 3),
    "_dtensor::shard_dim_alltoall": _Operator(ALL_TO_ALL, 0, 3),
}
_SILENT = {"_c10d_functional::wait_tensor", "c10d::barrier"}


def collective_of(func: Any, args: Any, axes: Mapping[int, str], phase: str) -> Collective | None:
    """Return the collective operation that a call of an operator is; None if it is none, or moves a single number.

    Args:
        func: The operator.
        args: Its arguments.
        axes: The axis of the mesh by the distance between the ranks of its groups.
        phase: The phase of the program.

    Raises:
        BuildError: The operator is a collective of unknown cost.
    """
    name = func._schema.name
    if not name.startswith(("c10d::", "_c10d_functional::", "_dtensor::")) or name in _SILENT:
        return None
    if name not in _OPERATORS:
        raise BuildError(f"the cost of the collective operation {name} is unknown", option="--parallel")
    operator = _OPERATORS[name]
    ranks = torch.distributed.get_process_group_ranks(_group(args[operator.group]))
    tensors = [leaf for leaf in tree_leaves(args[operator.payload]) if isinstance(leaf, Tensor)]
    if len(ranks) == 1 or sum(tensor.numel() for tensor in tensors) <= 1:  # a norm of a gradient, for example
        return None
    payload = operator.factor(len(ranks)) * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return Collective(axes[ranks[1] - ranks[0]], operator.kind, phase, len(ranks), payload)


def _group(argument: Any) -> Any:
    """Return the process group of an argument: the group, its name, or a box of torch's with it."""
    c10d: Any = torch.distributed.distributed_c10d
    if isinstance(argument, str):
        return c10d._resolve_process_group(argument)
    return argument if isinstance(argument, c10d.ProcessGroup) else c10d.ProcessGroup.unbox(argument)


def summed(collectives: Iterable[Collective]) -> list[dict[str, Any]]:
    """Return the calls, payload and wire bytes of each axis, kind and phase, in the order of the calls."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in collectives:
        empty = {"axis": one.axis, "kind": one.kind, "phase": one.phase, "calls": 0, "payload": 0, "bytes": 0.0}
        row = rows.setdefault((one.axis, one.kind, one.phase), empty)
        row["calls"] += 1
        row["payload"] += one.payload
        row["bytes"] += one.wire_bytes
    return list(rows.values())
