"""Check the values of `--parallel` and `--device` before processes are started or anything is built."""

from __future__ import annotations

from ..errors import BuildError
from ..options.parallel import ParallelSizes, parallel_sizes
from ..parallel.splits import check_split
from ..settings.resolved_model import ResolvedModel


def check_parallel(resolved: ResolvedModel, processes: int) -> ParallelSizes:
    """Return the sizes of the mesh of a command.

    Args:
        resolved: The resolved model.
        processes: The number of processes.

    Raises:
        ConfigurationError: The sizes do not fit the number of processes.
        BuildError: The model cannot be split over the processes, or the device does not support several.
    """
    build = resolved.build
    sizes = parallel_sizes(build.parallel or "ddp", processes)
    kind, _, index = build.device.partition(":")
    if processes > 1 and (kind == "mps" or index):
        problem = f"must be cpu or cuda with several processes; got '{build.device}'"
        raise BuildError(problem, option="--device", hint=f"use --device {'cpu' if kind == 'mps' else kind}")
    check_split(resolved.config, _plan(resolved), sizes)
    return sizes


def check_fused(resolved: ResolvedModel, sizes: ParallelSizes) -> None:
    """Check that parameters can be updated within backward: their gradients must be complete there.

    Raises:
        BuildError: Some gradients are summed over processes after that.
    """
    if sizes.tp > 1 and "replicated_with_grad_allreduce" in _plan(resolved).values():
        problem = "does not support tp for this model: gradients of its head norms are summed after backward"
        raise BuildError(problem, option="--fuse-optim-with-backward", hint="remove it, or use fsdp")


def _plan(resolved: ResolvedModel) -> dict[str, str]:
    return getattr(resolved.definition.config_class(), "base_model_tp_plan", None) or {}
