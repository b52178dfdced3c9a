"""The device mesh of a command: its processes, and the model that they hold together.

FSDP2 shards and copies the weights (`fsdp`, `ddp`), and transformers' tensor-parallel plan splits the layers (`tp`).
"""

from __future__ import annotations

import atexit
import logging
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from ..errors import BuildError
from ..options.parallel import ParallelSizes, parallel_sizes
from .launched import launched
from .memory_share import MemoryShare
from .processes import Processes
from .splits import check_device

_FLAG = "--parallel"
_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
TIMEOUT = timedelta(hours=1)  # a process may read a large checkpoint while the others wait; a launcher ends dead runs


@dataclass(frozen=True)
class Mesh:
    """The processes of a command as a device mesh.

    Args:
        sizes: The size of each axis.
        processes: The processes.
        local_processes: The number of processes on this machine.
        manager: transformers' view of the mesh.
        bf16: Whether FSDP gathers float32 weights in bfloat16, and computes with these. Gradients are reduced in
            float32. Autocast alone would gather float32, and keep its own copies of all weights until the step ends.
    """

    sizes: ParallelSizes
    processes: Processes
    local_processes: int
    manager: Any
    bf16: bool = False

    @classmethod
    def connect(cls, parallel: str, device: str) -> Mesh | None:
        """Connect to the other processes; return None if this is the only one.

        Args:
            parallel: The value of `--parallel`.
            device: The device of the model; `cuda` is another device for each process of a machine.

        Raises:
            ConfigurationError: The sizes do not fit the number of processes.
            BuildError: The device or the installed transformers does not support several processes.
        """
        import torch.distributed as dist

        here = launched()
        count = here.processes if here is not None else 1
        if dist.is_available() and dist.is_initialized():
            count = dist.get_world_size()
        sizes = parallel_sizes(parallel, count)
        if here is None and count == 1:
            hint = "add --nproc-per-node N, or start it with torchrun"
            raise BuildError("requires several processes", option=_FLAG, hint=hint)
        if count == 1:
            return None
        if not dist.is_available():
            raise BuildError(
                "requires torch with torch.distributed", option=_FLAG, hint="install another build of torch"
            )
        local = here.local_rank if here is not None else dist.get_rank()
        place = _device_of(device, local)
        refuse_old_transformers()
        if not dist.is_initialized():
            bound = place if place.type == "cuda" else None  # spares NCCL a guess
            dist.init_process_group(_BACKENDS[place.type], timeout=TIMEOUT, device_id=bound)
            atexit.register(_disconnect)
        # It warns that the norm of a gradient is summed over one axis after the other.
        logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)
        processes = Processes(dist.get_rank(), count, place)
        return cls(
            sizes, processes, here.local_processes if here is not None else count, mesh_manager(sizes, place.type)
        )

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.processes.device

    @property
    def data_rank(self) -> int:
        """The part of a batch that this process computes, from 0; the processes of a tp group have the same one."""
        return self.processes.rank // self.sizes.tp

    @property
    def memory_share(self) -> MemoryShare:
        """The fractions of the memory of a step on this device, or on this machine."""
        return MemoryShare.of(self.sizes, self.device.type, self.local_processes)

    def distribute(self, model: Any) -> Any:
        """Replace the parameters of a model on meta by parts, still on meta, and return the model.

        Args:
            model: A transformers model with the plans of its parallel parts.

        Raises:
            BuildError: The model has no plan for a part of the mesh.
        """
        from transformers.distributed import DistributedConfig
        from transformers.distributed.fsdp import apply_fully_sharded_data_parallelism
        from transformers.distributed.tensor_parallel import apply_tensor_parallelism

        sizes = self.sizes
        config = DistributedConfig(
            tp_size=sizes.tp,
            fsdp_size=sizes.fsdp,
            dp_replicate_size=sizes.ddp,
            fsdp_mixed_precision=self.bf16,
        )
        # The steps of `maybe_distribute_model`, which fails on tied weights: their plan names both, once each.
        model.config.distributed_config, model._mesh_manager = config, self.manager
        model._device_mesh = self.manager.get_mesh(("pp", "fsdp", "tp"))
        model._is_distributed_loading_by_transformers = True
        model._tp_size, model._fsdp_size = sizes.tp, sizes.fsdp
        try:
            tp_plan, ep_plan, fsdp_plan = model._resolve_parallel_plans(config)
        except ValueError as error:
            raise BuildError(f"{sizes} does not fit {type(model).__name__}: {error}", option=_FLAG) from error
        if sizes.tp > 1:
            _untie(model)
            model = apply_tensor_parallelism(model, self.manager.get_mesh("tp"), tp_plan)
            model.tie_weights()
        if sizes.data > 1:
            # It warns of views, which only in-place operations would break: `verify --parallel` compares gradients.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
            model = apply_fully_sharded_data_parallelism(model, self.manager, fsdp_plan, ep_plan)
        return model


def _untie(model: Any) -> None:
    """Give each tied parameter on meta an object of its own."""
    for name in getattr(model, "all_tied_weights_keys", None) or {}:
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        parameter = getattr(module, own)
        setattr(module, own, torch.nn.Parameter(torch.empty_like(parameter), requires_grad=parameter.requires_grad))


def _device_of(device: str, local_rank: int) -> torch.device:
    """Return the device of this process, and make it torch's current one."""
    check_device(device)
    if device == "cpu":
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        problem = f"process {local_rank} of this machine has no GPU: it has {torch.cuda.device_count()}"
        raise BuildError(problem, option="--nproc-per-node", hint="start as many processes as there are GPUs")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def refuse_old_transformers() -> None:
    """Refuse a transformers release that cannot distribute a model.

    Raises:
        BuildError: It is too old.
    """
    from transformers import PreTrainedModel, __version__

    if not hasattr(PreTrainedModel, "maybe_distribute_model"):
        problem = f"requires transformers 5.24 or newer, got {__version__}"
        raise BuildError(problem, option=_FLAG, hint="pip install --upgrade transformers")


def mesh_manager(sizes: ParallelSizes, kind: str) -> Any:
    """Return transformers' view of the mesh. Its own function ignores `--device`: it takes the first accelerator."""
    from torch.distributed.device_mesh import init_device_mesh
    from transformers.distributed.utils import TransformersDeviceMesh

    dense = (1, sizes.ddp, sizes.fsdp, sizes.tp)
    experts = (1, sizes.ddp, sizes.fsdp * sizes.tp, 1)
    return TransformersDeviceMesh(
        init_device_mesh(kind, dense, mesh_dim_names=("pp", "dp_replicate", "fsdp", "tp")),
        init_device_mesh(kind, experts, mesh_dim_names=("pp", "dp_replicate", "efsdp", "ep")),
    )


def _disconnect() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
