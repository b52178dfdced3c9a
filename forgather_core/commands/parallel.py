"""Check the values of `--parallel` and `--device` before processes are started or anything is built."""

from __future__ import annotations

from ..options.parallel import ParallelSizes, parallel_sizes
from ..parallel.splits import check_device, check_split, tensor_plan
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
    if processes > 1 and build.device != "meta":
        check_device(build.device)
    check_split(resolved.config, tensor_plan(resolved.definition.config_class()), sizes)
    return sizes
