"""The processes of a training run: the device of each, and the mesh over which the model is distributed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from accelerate import PartialState

from ..commands.parallel import check_parallel
from ..errors import TrainingError
from ..model.build import first_device, parse_device
from ..options.parallel import ParallelSizes
from ..parallel.mesh import TIMEOUT, Mesh
from ..settings.resolve import DEFAULT
from ..settings.resolved_model import ResolvedModel


@dataclass(frozen=True)
class RunProcesses:
    """The processes of a run.

    Args:
        state: accelerate's view of the processes.
        sizes: The sizes of the mesh: `ddp` alone is accelerate's data parallelism.
        mesh: The mesh over which the model is distributed; None if each process has the whole model.
    """

    state: PartialState
    sizes: ParallelSizes
    mesh: Mesh | None

    @property
    def is_first(self) -> bool:
        """Return whether this process reports."""
        return bool(self.state.is_main_process)


def run_processes(resolved: ResolvedModel) -> tuple[ResolvedModel, RunProcesses]:
    """Connect to the other processes; return the model with the device of this one.

    Raises:
        TrainingError: The device is meta.
        BuildError: The device does not exist, or the model cannot be split over the processes.
        ConfigurationError: The mesh does not fit the number of processes.
    """
    device = resolved.build.device
    if device == "meta" and resolved.origins["device"].label != DEFAULT:
        problem = "must be cpu, cuda, cuda:N or mps; got 'meta'"
        raise TrainingError(problem, option="--device", hint="remove it to use the first device of this machine")
    if device != "meta":
        parse_device(device, real=True)
    state = PartialState(cpu=device.startswith("cpu"), timeout=TIMEOUT)
    # Not `state.device`: accelerate keeps the device type of an earlier run of this process.
    chosen = first_device() if device == "meta" else device
    sizes, mesh = check_parallel(replace_device(resolved, chosen), state.num_processes), None
    parallel = resolved.build.parallel
    if parallel is not None and (sizes.fsdp * sizes.tp > 1 or sizes.processes == 1):
        mesh = Mesh.connect(parallel, chosen)
    if state.num_processes > 1:
        chosen = str(state.device)
    return replace_device(resolved, chosen), RunProcesses(state, sizes, mesh)


def replace_device(resolved: ResolvedModel, device: str) -> ResolvedModel:
    """Return a resolved model with another device."""
    return replace(resolved, build=replace(resolved.build, device=device))
