"""A fused stepper leaves no hooks behind."""

from __future__ import annotations

import gc
from functools import partial

import pytest
import torch
from torch import nn

from forgather_core.training.optimizers import FusedStepper

SGD = partial(torch.optim.SGD, lr=0.1)


def hooks(model: nn.Module) -> int:
    return sum(len(p._post_accumulate_grad_hooks or {}) for p in model.parameters())  # type: ignore[attr-defined]


@pytest.mark.regression("fused-hooks")
def test_a_dropped_stepper_leaves_no_hooks() -> None:
    model = nn.Linear(2, 2)
    stepper = FusedStepper(model, SGD)
    stepper.backward(model(torch.ones(1, 2)).sum())
    assert hooks(model) == 2
    del stepper
    gc.collect()
    assert hooks(model) == 0


@pytest.mark.regression("fused-hooks")
def test_two_successive_steppers_step_once_each() -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    for _ in range(2):
        stepper = FusedStepper(model, SGD)
        stepper.backward(model(torch.ones(1, 2)).sum())
        stepper = None  # type: ignore[assignment]
        gc.collect()
    assert torch.allclose(model.weight, before - 0.2)


def test_a_failure_leaves_no_hooks() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="stop"), FusedStepper(model, SGD):
        raise RuntimeError("stop")
    assert hooks(model) == 0

    made: list[object] = []

    def make(parameters: object) -> torch.optim.Optimizer:
        if made:
            raise RuntimeError("stop")
        made.append(parameters)
        return SGD(parameters)

    with pytest.raises(RuntimeError, match="stop"):
        FusedStepper(model, make)  # type: ignore[arg-type]
    assert hooks(model) == 0
