"""The state of an optimizer is saved and loaded by names, over any mesh."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from forgather_core.errors import CheckpointError
from forgather_core.training_run.optimizer_state import load_optimizer, save_optimizer
from tests.support.ranks import run_ranks


class Branches(nn.Module):
    """A model with a branch that is not used at first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.used, self.late = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, late: bool) -> Tensor:
        y: Tensor = self.used(x)
        return y + self.late(y) if late else y


def started(sharded: bool, name: str) -> tuple[Any, Any]:
    """Return a new model and its optimizer."""
    model: Any = Branches()
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    if name == "sgd":
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def steps(model: Any, optimizer: Any, *late: bool) -> None:
    for one in late:
        model(torch.ones(2, 4), one).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def weights(model: Any) -> list[Any]:
    return [getattr(one, "full_tensor", lambda one=one: one)().tolist() for one in model.parameters()]


def continued(checkpoint: str, sharded: bool, name: str) -> tuple[list[str], list[Any]]:
    """Continue after two steps without the late branch; return the names that had a state, and the weights."""
    warnings.simplefilter("ignore")
    model, optimizer = started(sharded, name)
    steps(model, optimizer, False, False)
    optimizer = type(optimizer)(model.parameters(), lr=0.1, **({"momentum": 0.9} if name == "sgd" else {}))
    load_optimizer(model, optimizer, Path(checkpoint))
    names = [each for each, one in model.named_parameters() if one in optimizer.state]
    steps(model, optimizer, False, True, True)
    return names, weights(model)


def saved(checkpoint: str, name: str) -> None:
    """Save over two processes the state after two steps without the late branch."""
    warnings.simplefilter("ignore")
    model, optimizer = started(True, name)
    steps(model, optimizer, False, False)
    save_optimizer(model, optimizer, Path(checkpoint))


def values(results: list[Any]) -> list[Any]:
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of two processes."""
    place = tmp_path_factory.mktemp("checkpoint")
    values(run_ranks(saved, 2, str(place), "adamw"))
    return place


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("from_mesh", [True, False])
def test_a_parameter_without_a_gradient_has_no_state_after_loading(tmp_path: Path, name: str, from_mesh: bool) -> None:
    model, optimizer = started(False, name)
    steps(model, optimizer, False, False)
    if from_mesh:
        values(run_ranks(saved, 2, str(tmp_path), name))
    else:
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    steps(model, optimizer, False, True, True)
    found = values(run_ranks(continued, 2, str(tmp_path), True, name))
    if from_mesh:
        found.append(continued(str(tmp_path), False, name))
    for names, after in found:
        assert names == ["used.weight", "used.bias"]
        for a, b in zip(after, weights(model), strict=True):
            torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["mesh", "one"])
def test_the_state_of_other_parameters_is_refused(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    _, other = started(False, "adamw")
    place = checkpoint if kind == "mesh" else tmp_path
    torch.save(other.state_dict(), tmp_path / "optimizer.pt")
    more = nn.ModuleDict({"used": nn.Linear(4, 4), "late": nn.Linear(4, 4), "more": nn.Linear(4, 4)})
    for model in (more, nn.ModuleDict({"used": nn.Linear(4, 4)}), nn.ModuleDict({"other": nn.Linear(4, 4)})):
        with pytest.raises(CheckpointError, match=r"cannot be loaded: its parameters are not those of the model: rem"):
            load_optimizer(model, torch.optim.AdamW(model.parameters()), place)


def error_of_loading(checkpoint: str) -> str:
    """Return the message of the error that loading a checkpoint raises."""
    model, optimizer = started(torch.distributed.is_initialized(), "adamw")
    try:
        load_optimizer(model, optimizer, Path(checkpoint))
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "metadata"])
def test_a_damaged_state_is_one_line_with_the_cause(checkpoint: Path, tmp_path: Path, damage: str) -> None:
    place = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint-2"))
    file = place / "optimizer" / (".metadata" if damage == "metadata" else "__1_0.distcp")
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else file.stat().st_size // 2])
    causes = {
        "missing": f"No such file or directory: '{file}'",
        "truncated": "a file of it is truncated",
        "empty": "a file of it is truncated",
        "metadata": "pickle data was truncated",
    }
    messages = values(run_ranks(error_of_loading, 2, str(place)))
    for message in [*messages, error_of_loading(str(place))]:
        assert message.startswith(f"{place}: the state of the optimizer cannot be loaded: ")
        assert message.endswith(": remove this directory to continue from an earlier checkpoint")
        assert "ranks:" not in message
        assert "\n" not in message
        assert causes[damage] in message
