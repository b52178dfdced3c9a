"""Gradients are compared with differences of the loss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgather_core.checks.shared.derivative import TOLERANCE, derivative_error, is_deterministic


class Small(nn.Module):
    """A model with one hidden layer, and a mistake in it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.embed = nn.Embedding(11, 8)
        self.up, self.head = nn.Linear(8, 8), nn.Linear(8, 11)

    def forward(self, text: Tensor, labels: Tensor, use_cache: bool) -> Any:
        x = self.embed(text)
        weight = self.up.weight
        if self.kind == "straight-through":
            weight = weight + ((weight * 20).round() / 20 - weight).detach()
        hidden = nn.functional.linear(x, weight, self.up.bias).tanh()
        if self.kind == "detached factor":
            hidden = hidden * hidden.detach().square().mean(-1, keepdim=True).rsqrt()
        if self.kind == "random":
            hidden = hidden + torch.randn_like(hidden)
        logits = self.head(hidden)
        return SimpleNamespace(loss=nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))


@pytest.mark.parametrize(
    ("kind", "wrong"), [("correct", False), ("detached factor", True), ("straight-through", False)]
)
def test_detached_parts_are_found_and_estimators_are_not_judged(kind: str, wrong: bool) -> None:
    model, text = Small(kind), torch.arange(20).view(2, 10) % 11
    assert is_deterministic(model, text)
    model(text, labels=text, use_cache=False).loss.backward()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    error, where = derivative_error(model, text, gradients, seed=0)
    assert (error > TOLERANCE) == wrong, where
    assert all(map(torch.equal, model.parameters(), before)), "the weights are restored"


def test_a_random_loss_is_not_judged() -> None:
    text = torch.arange(20).view(2, 10) % 11
    assert not is_deterministic(Small("random"), text)
