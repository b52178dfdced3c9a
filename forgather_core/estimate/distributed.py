"""The estimate of a model that is distributed over a mesh of devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from ..options.parallel import parallel_sizes
from ..parallel.memory_share import MemoryShare
from ..parallel.mesh import Mesh
from ..parallel.simulated import simulated_mesh
from ..parallel.splits import check_fused, check_split, tensor_plan
from ..settings.resolved_model import ResolvedModel
from .timeline import GRADIENTS, OPTIMIZER, WEIGHTS, Peak, Timeline
from .wire import Wire


@contextmanager
def requested_mesh(resolved: ResolvedModel, *, fused: bool = False) -> Iterator[Mesh | None]:
    """Provide the mesh that `--parallel` names, as its first process; None if it names a single device.

    Args:
        resolved: The resolved model.
        fused: Whether parameters are updated within backward.

    Raises:
        ConfigurationError: The value gives no size to one of its kinds.
        BuildError: The model cannot be split over the mesh, or not be updated within backward there.
    """
    text = resolved.build.parallel
    sizes = parallel_sizes(text) if text is not None else None
    if sizes is None or sizes.processes == 1:
        yield None
        return
    plan = tensor_plan(resolved.definition.config_class())
    check_split(resolved.config, plan, sizes)
    if fused:
        check_fused(plan, sizes)
    with simulated_mesh(sizes) as mesh:
        yield mesh


def least_memory(peak: Peak, share: MemoryShare, *, held: bool = True) -> int:
    """Return the least memory of a step of a distributed model, in bytes: without what its communication needs.

    The mesh itself cannot be traced in a process that belongs to it.

    Args:
        peak: The peak of the whole model on one device.
        share: The fractions of it in one memory.
        held: Whether to count the weights.
    """
    sharded = sum(peak.parts.get(kind, 0) for kind in (GRADIENTS, OPTIMIZER)) + held * peak.parts.get(WEIGHTS, 0)
    rest = peak.bytes - sum(peak.parts.get(kind, 0) for kind in (WEIGHTS, GRADIENTS, OPTIMIZER))
    return int(share.weights * sharded + share.activations * rest)


def mesh_setup(mesh: Mesh, rows: int) -> str:
    """Return the mesh and the batch of all its devices for the setup of a report."""
    return f"{mesh.sizes}: {mesh.sizes.processes} devices, {rows * mesh.sizes.data:,} rows in all"


def parallel_report(wire: Wire, step: Timeline, rows: int) -> dict[str, Any]:
    """Return the mesh and its communication as plain data.

    Args:
        wire: The communication of a device.
        step: The training step of a device.
        rows: Batch size of each data-parallel process.
    """
    sizes = wire.sizes
    return {
        "mesh": str(sizes),
        "devices": sizes.processes,
        **asdict(sizes),
        "rows": rows * sizes.data,
        "flops": sum(step.flops.values()),
        "collectives": wire.report(),
        "bytes": wire.total(),
    }


def parallel_notes() -> Iterator[str]:
    """Yield the assumptions of the estimate of a mesh."""
    yield "batch sizes are those of each data-parallel process; the devices of a tp group share its rows"
    yield "memory is that of the first device of the mesh, whose part is the largest"
    yield "time on the wire is bytes / link speed: latency, and overlap with compute, are not modelled"
