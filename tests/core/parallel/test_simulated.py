"""One process of a mesh without the others."""

from __future__ import annotations

import pytest
import torch

from forgather_core.errors import BuildError
from forgather_core.options.parallel import parallel_sizes
from forgather_core.parallel.simulated import simulated_mesh


def test_it_is_the_first_process_and_leaves_no_group_behind() -> None:
    for text in ("fsdp=8,tp=2", "tp=2", "ddp=64,fsdp=8"):
        sizes = parallel_sizes(text)
        with simulated_mesh(sizes) as mesh:
            assert mesh.processes.size == torch.distributed.get_world_size() == sizes.processes
            assert (mesh.processes.rank, mesh.data_rank) == (0, 0)
            assert mesh.manager.get_mesh("tp").size() == sizes.tp
        assert not torch.distributed.is_initialized()


def test_it_ends_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), simulated_mesh(parallel_sizes("fsdp=2")):
        raise ZeroDivisionError
    assert not torch.distributed.is_initialized()


def test_a_process_of_others_is_refused() -> None:
    sizes = parallel_sizes("fsdp=2")
    refused = pytest.raises(BuildError, match="--parallel requires a process without")
    with simulated_mesh(sizes), refused, simulated_mesh(sizes):
        pass


def test_meshes_follow_each_other() -> None:
    from forgather import estimate

    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "sequence_length": 8}
    first, *_, again = [
        estimate("llama/4M", parallel=mesh, **sizes).to_dict()["training"]
        for mesh in ("fsdp=4,tp=2", "ddp=2,fsdp=2,tp=2", "fsdp=4,tp=2")
    ]
    assert first == again
