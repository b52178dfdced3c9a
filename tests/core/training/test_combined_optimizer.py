"""Optimizers of a training run: groups, Muon beside AdamW, updates within backward, and states that are restored."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from forgather_core.errors import TrainingError
from forgather_core.training.combined_optimizer import CombinedOptimizer, decayed_names, training_optimizer


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layer = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.layer(self.embed(ids))))
        return logits


def model() -> Small:
    torch.manual_seed(0)
    return Small()


def step(trained: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    ids = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(seed))
    nn.functional.cross_entropy(trained(ids).flatten(0, 1), ids.flatten()).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()


def weights(trained: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in trained.parameters()]


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_decay_applies_to_matrices_only(name: str) -> None:
    trained = model()
    optimizer = training_optimizer(name, trained, lr=0.1, weight_decay=0.5)
    names = {id(parameter): name for name, parameter in trained.named_parameters()}
    decay = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay.keys() == dict(trained.named_parameters()).keys()
    assert {name for name, value in decay.items() if value} == {"embed.weight", "layer.weight", "head.weight"}
    assert set(decayed_names(trained)) == {"embed.weight", "layer.weight", "head.weight"}


def test_muon_updates_the_matrices_of_layers_by_an_orthogonal_step() -> None:
    """The update of Muon has singular values near 1, scaled to 0.2 sqrt(max(rows, columns)) (arXiv:2502.16982)."""
    trained, lr = model(), 0.01
    before = trained.layer.weight.detach().clone()
    step(trained, training_optimizer("muon", trained, lr=lr, weight_decay=0.0), 0)
    values = torch.linalg.svdvals((before - trained.layer.weight.detach()) / (lr * 0.2 * 4**0.5))
    assert values[:3].min() > 0.5  # Newton-Schulz: between 0.7 and 1.2, except for values near 0
    assert values.max() < 1.3


def test_the_other_parameters_of_muon_are_those_of_adamw() -> None:
    one, other = model(), model()
    step(one, training_optimizer("muon", one, lr=0.01, weight_decay=0.1), 0)
    step(other, training_optimizer("adamw", other, lr=0.01, weight_decay=0.1), 0)
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) == (name != "layer.weight"), name


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_updates_within_backward_are_the_same(name: str) -> None:
    one, other = model(), model()
    plain = training_optimizer(name, one, lr=0.1, weight_decay=0.1)
    fused = training_optimizer(name, other, lr=0.1, weight_decay=0.1, in_backward=True)
    for seed in range(3):
        for group in (*plain.param_groups, *fused.param_groups):
            group["lr"] = 0.1 / (seed + 1)  # as a schedule does
        step(one, plain, seed)
        step(other, fused, seed)
        assert all(parameter.grad is None for parameter in other.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.mark.parametrize(("name", "in_backward"), [("adamw", False), ("muon", False), ("adamw", True)])
def test_a_state_is_restored(name: str, in_backward: bool) -> None:
    one = model()
    first = training_optimizer(name, one, lr=0.1, weight_decay=0.1, in_backward=in_backward)
    step(one, first, 0)
    other = model()
    second = training_optimizer(name, other, lr=0.5, weight_decay=0.1, in_backward=in_backward)
    other.load_state_dict(one.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert {group["lr"] for group in second.param_groups} == {0.1}
    for group in (*first.param_groups, *second.param_groups):
        group["lr"] = 0.05  # the groups of a loaded state are those that are stepped
    step(one, first, 1)
    step(other, second, 1)
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_a_schedule_reaches_every_optimizer() -> None:
    trained = model()
    optimizer = training_optimizer("muon", trained, lr=0.1, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.5)
    assert isinstance(optimizer, CombinedOptimizer)
    assert {group["lr"] for one in optimizer.optimizers for group in one.param_groups} == {0.05}
    schedule.step()


@pytest.mark.parametrize(
    ("name", "in_backward", "message"),
    [
        ("adam", False, "--optimizer must be one of adamw, sgd, muon; got 'adam'"),
        ("muon", True, "--fuse-optim-with-backward does not support muon: use adamw or sgd"),
    ],
)
def test_an_optimizer_that_does_not_exist_is_refused(name: str, in_backward: bool, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        training_optimizer(name, model(), lr=0.1, weight_decay=0.0, in_backward=in_backward)
