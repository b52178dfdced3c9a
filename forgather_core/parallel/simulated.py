"""The first process of a device mesh, without the others: its collective operations send nothing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import BuildError
from ..options.parallel import ParallelSizes
from .mesh import Mesh, mesh_manager, refuse_old_transformers
from .processes import Processes


@contextmanager
def simulated_process(rank: int, count: int) -> Iterator[None]:
    """Pretend to be one of several processes, whose messages are not sent. This process must not be one already."""
    import torch.distributed as dist
    from torch.distributed.tensor.debug import _clear_sharding_prop_cache as clear_sharding_cache
    from torch.testing._internal.distributed.fake_pg import FakeStore

    with warnings.catch_warnings(action="ignore"):
        dist.init_process_group("fake", rank=rank, world_size=count, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
        # It keeps the meshes of the group, whose names another group may get.
        clear_sharding_cache()  # type: ignore[no-untyped-call]


@contextmanager
def simulated_mesh(sizes: ParallelSizes) -> Iterator[Mesh]:
    """Pretend to be the first process of a mesh, which has the largest parts of all; provide the mesh.

    Args:
        sizes: The sizes of the mesh.

    Raises:
        BuildError: This process belongs to other processes already, or torch or transformers cannot distribute models.
    """
    import torch.distributed as dist

    if not dist.is_available():
        problem = "requires torch with torch.distributed"
        raise BuildError(problem, option="--parallel", hint="install another build of torch")
    if dist.is_initialized():
        problem = "requires a process without torch.distributed's process group"
        raise BuildError(problem, option="--parallel", hint="call it before init_process_group")
    refuse_old_transformers()
    logger = logging.getLogger("torch.distributed.tensor")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about the sum of a gradient's norm
    try:
        with warnings.catch_warnings(action="ignore"), simulated_process(0, sizes.processes):
            processes = Processes(0, sizes.processes, torch.device("cpu"))
            yield Mesh(sizes, processes, 1, mesh_manager(sizes, "cpu"))
    finally:
        logger.setLevel(level)
