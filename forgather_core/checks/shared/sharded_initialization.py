"""Initialize one shard of a model, as a process of a device mesh does, without other processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...parallel.simulated import simulated_process
from .meta_initialization import fill_with_nan
from .model_under_test import ModelUnderTest

SHARDINGS = {"rows": (0,), "rows, twice": (0, 0), "rows and columns": (0, 1)}  # the dimension for each axis of a mesh
_SIZE = 2  # processes along each axis of the mesh; this one is the last of each


def can_shard() -> bool:
    """Return whether this process may pretend to be one of a mesh: it belongs to none."""
    return torch.distributed.is_available() and not torch.distributed.is_initialized()


def initialized_shard(subject: ModelUnderTest, dims: tuple[int, ...]) -> dict[str, Tensor]:
    """Return the last process's part of each parameter, initialized after the model is sharded.

    Args:
        subject: The model under test; its model is built on the meta device.
        dims: The dimension that each axis of the mesh splits.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard

    with torch.device("meta"):
        model = subject.fresh_model()
    count = _SIZE ** len(dims)
    with simulated_process(count - 1, count):
        mesh = init_device_mesh("cpu", (_SIZE,) * len(dims))
        parts: dict[nn.Parameter, nn.Parameter] = {}
        for name, parameter in [*model.named_parameters(remove_duplicate=False)]:
            if parameter not in parts:
                local = torch.empty_like(part_of(parameter, dims), device="cpu")
                fill_with_nan([local])
                placements = [Shard(dim) if dim < parameter.dim() else Replicate() for dim in dims]
                whole: Any = DTensor.from_local(
                    local, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
                )
                parts[parameter] = nn.Parameter(whole, requires_grad=parameter.requires_grad)
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, parts[parameter])
        torch.manual_seed(subject.seed)
        model.init_weights()
        found: dict[str, Any] = dict(model.named_parameters())
        return {name: one.to_local().detach() for name, one in found.items()}


def part_of(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the last process's part of a tensor; it is empty if a dimension is smaller than the mesh."""
    part = tensor.detach()
    for dim in dims:
        if dim < part.dim():
            chunks = part.chunk(_SIZE, dim)
            part = chunks[-1] if len(chunks) == _SIZE else part.narrow(dim, 0, 0)
    return part.contiguous()
