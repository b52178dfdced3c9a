"""One process of a device mesh, without the other processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from forgather_core.parallel.simulated import simulated_process


@contextmanager
def process_of_mesh(rank: int, shape: Sequence[int]) -> Iterator[Any]:
    """Pretend to be one process of a mesh, which communicates with no other; provide the mesh."""
    from torch.distributed.device_mesh import init_device_mesh

    with simulated_process(rank, torch.Size(shape).numel()), warnings.catch_warnings(action="ignore"):
        yield init_device_mesh("cpu", tuple(shape))


def part_of(whole: Tensor, mesh: Any, dims: Sequence[int | None]) -> Tensor:
    """Return this process's part of a tensor.

    Args:
        whole: The whole tensor.
        mesh: The mesh.
        dims: The dimension that each axis of the mesh splits; None replicates.
    """
    part = whole
    for axis, dim in enumerate(dims):
        if dim is not None and dim < whole.dim():
            parts, here = part.chunk(mesh.size(axis), dim), mesh.get_coordinate()[axis]
            part = parts[here] if here < len(parts) else part.narrow(dim, 0, 0)
    return part


def shard(model: nn.Module, mesh: Any, dims: Sequence[int | None]) -> None:
    """Replace each parameter by a DTensor with this process's part; a tied parameter remains one object."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    made: dict[nn.Parameter, nn.Parameter] = {}
    for name, parameter in [*model.named_parameters(remove_duplicate=False)]:
        if parameter not in made:
            local = torch.full_like(part_of(parameter.detach(), mesh, dims), torch.nan).contiguous()
            placements = [Replicate() if dim is None or dim >= parameter.dim() else Shard(dim) for dim in dims]
            whole: Any = DTensor.from_local(
                local, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
            )
            for one in (whole, whole.detach()):  # torch keeps the first of equal meshes
                one.device_mesh._coordinate_on_dim = mesh._coordinate_on_dim
            made[parameter] = nn.Parameter(whole)
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, made[parameter])
