"""The records of a training run, and the conditions that stop it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from forgather_core.errors import TrainingError
from forgather_core.training_run.watch import TrainingCallback, TrainingRecord

ARGS = SimpleNamespace(device=torch.device("cpu"), output_dir="no such directory")


def begin(callback: TrainingCallback, steps: int = 1000, model: nn.Module | None = None) -> Any:
    state = SimpleNamespace(
        global_step=0, max_steps=steps, log_history=[], is_world_process_zero=True, compute_steps=lambda *_: None
    )
    callback.on_train_begin(ARGS, state, None, model=model or nn.Linear(1, 1), optimizer=None)
    return state


def log(callback: TrainingCallback, state: Any, step: int, loss: float) -> None:
    state.global_step = step
    state.log_history.append({"step": step})
    callback.on_log(ARGS, state, None, logs={"loss": loss, "grad_norm": 1.0, "learning_rate": 0.1})


def test_records_and_the_part_of_checkpoints() -> None:
    seen: list[TrainingRecord] = []
    callback = TrainingCallback(100, on_record=seen.append, peak_flops=1e12, flops_per_token=1e6)
    state = begin(callback, steps=20)
    for step in (5, 10):
        for _ in range(5):
            callback.on_step_end(ARGS, state, None)
        log(callback, state, step, 3.0 - step / 10)
    callback.on_log(ARGS, state, None, logs={"eval_loss": 1.0})
    assert callback.records == seen
    assert [(one.step, one.loss, one.tokens) for one in seen] == [(5, 2.5, 500), (10, 2.0, 1000)]
    assert all(one.mfu == pytest.approx(one.tokens_per_second * 1e6 / 1e12) for one in seen)
    assert seen[1].seconds_left == pytest.approx(seen[1].seconds, rel=0.5)  # half of the steps are left
    assert state.log_history[-1]["tokens_per_second"] == seen[-1].tokens_per_second
    continued = TrainingCallback(100)
    state.log_history.append({"step": 10, "eval_loss": 1.5, "eval_bits_per_byte": 2.0, "eval_tokens": 9})
    continued.on_train_begin(ARGS, state, None, model=nn.Linear(1, 1), optimizer=None)
    assert continued.records == seen
    assert continued.evaluations == [{"step": 10, "loss": 1.5, "bits_per_byte": 2.0, "tokens": 9}]


def test_a_loss_that_does_not_fall_stops_the_run() -> None:
    callback = TrainingCallback(100)
    state = begin(callback)
    for step in range(4, 100, 4):
        log(callback, state, step, 5.0)  # fewer than 100 steps prove nothing
    with pytest.raises(TrainingError, match=r"step 100: the loss does not fall: 5\.0000 at the beginning, 5\.0000 now"):
        log(callback, state, 100, 5.0)


def test_a_loss_that_rises_again_stops_the_run() -> None:
    callback = TrainingCallback(100)
    state = begin(callback)
    for step in range(1, 200):
        log(callback, state, step, 5.0 - step / 100)
    with pytest.raises(TrainingError, match="does not fall"):
        for step in range(200, 260):
            log(callback, state, step, 9.0)


@pytest.mark.parametrize("stop", [True, False])
def test_losses_that_fall_and_runs_that_are_forced_go_on(stop: bool) -> None:
    callback = TrainingCallback(100, stop=stop)
    state = begin(callback)
    for step in range(1, 300):
        log(callback, state, step, 5.0 - step / 1000 if stop else 5.0 + step)


def test_a_parameter_without_gradient_stops_the_run() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    callback = TrainingCallback(100)
    state = begin(callback, model=model)
    for step in range(1, 10):
        model[0](torch.ones(1, 2)).sum().backward()
        callback.on_pre_optimizer_step(ARGS, state, None, model=model)
        state.global_step = step
        callback.on_step_end(ARGS, state, None)
    state.global_step = 10
    with pytest.raises(TrainingError, match=r"step 10: no gradient has reached 1\.bias, 1\.weight"):
        callback.on_step_end(ARGS, state, None)


def test_one_gradient_is_enough() -> None:
    model = nn.Linear(2, 2)
    callback = TrainingCallback(100)
    state = begin(callback, model=model)
    for step in range(1, 20):
        model.zero_grad()
        if step == 7:
            model(torch.ones(1, 2)).sum().backward()
        callback.on_pre_optimizer_step(ARGS, state, None, model=model)
        state.global_step = step
        callback.on_step_end(ARGS, state, None)
