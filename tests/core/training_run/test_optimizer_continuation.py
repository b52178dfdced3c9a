"""The state of an optimizer continues on a mesh, also that of parameters that have had no gradient yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from forgather_core.training_run.optimizer_state import load_optimizer, save_optimizer
from tests.support.ranks import run_ranks


class Model(nn.Module):
    """Two layers, of which the second one is used from the third step on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, inputs: Any, step: int) -> Any:
        hidden = self.one(inputs)
        return (self.two(hidden) if step > 2 else hidden).square().mean()


def new(sharded: bool) -> tuple[Model, Any]:
    model = Model()
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def steps(model: Any, optimizer: Any, numbers: range) -> None:
    for number in numbers:
        model(torch.full((2, 4), 0.1 * number), number).backward()
        optimizer.step()
        optimizer.zero_grad()


def whole(model: Any) -> list[float]:
    values = [getattr(one, "full_tensor", lambda one=one: one)().flatten() for one in model.parameters()]
    return torch.cat(values).tolist()


def continued(folder: str, named: bool) -> tuple[list[float], set[str]]:
    """Train two steps, continue for two more with new objects; return the weights and what has a state in between."""
    place = Path(folder)
    if named:
        model, optimizer = new(sharded=True)
        steps(model, optimizer, range(1, 3))
        save_optimizer(model, optimizer, place)
    elif dist.get_rank() == 0:
        alone, its = new(sharded=False)
        steps(alone, its, range(1, 3))
        torch.save(its.state_dict(), place / "optimizer.pt")
    dist.barrier()
    model, optimizer = new(sharded=True)
    weights, _ = new(sharded=True)
    steps(weights, torch.optim.AdamW(weights.parameters(), lr=0.1), range(1, 3))
    model.load_state_dict(weights.state_dict())
    load_optimizer(model, optimizer, place)
    having = {name for name, one in model.named_parameters() if optimizer.state.get(one)}
    steps(model, optimizer, range(3, 5))
    return whole(model), having


@pytest.mark.parametrize("named", [True, False], ids=["by names", "by numbers"])
def test_a_parameter_without_state_begins_with_its_first_gradient(named: bool, tmp_path: Path) -> None:
    model, optimizer = new(sharded=False)
    steps(model, optimizer, range(1, 5))
    for found in run_ranks(continued, 2, str(tmp_path), named, seconds=60):
        assert isinstance(found, tuple), found
        assert found[1] == {"one.weight", "one.bias"}
        assert found[0] == pytest.approx(whole(model), abs=1e-6)
