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
    check_split(resolved.config, tensor_plan_of(resolved), sizes)
    return sizes


def tensor_plan_of(resolved: ResolvedModel) -> dict[str, str]:
    """Return the tensor-parallel plan of a model."""
    return getattr(resolved.definition.config_class(), "base_model_tp_plan", None) or {}
