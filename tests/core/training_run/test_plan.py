"""The numbers of a training run follow from its options."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forgather_core.errors import ConfigurationError
from forgather_core.options.train_options import TrainOptions
from forgather_core.training_run.plan import plan_of, token_count

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "count"),
    [("7", 7), ("500k", 500_000), ("10M", 10**7), ("1.5B", 1_500_000_000), ("2t", 2 * 10**12), (" 3_000 ", 3000)],
)
def test_numbers_of_tokens(text: str, count: int) -> None:
    assert token_count(text, "--tokens") == count


@pytest.mark.parametrize("text", ["", "0", "-1", "ten", "1e6", "10 M", "0.5", "1MM", "nan"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--tokens: expected a number of tokens"):
        token_count(text, "--tokens")


@given(st.integers(1, 10**9), st.integers(1, 64), st.integers(1, 8), st.integers(1, 8), st.integers(2, 4096))
def test_steps_come_nearest_to_the_tokens(
    tokens: int, rows: int, accumulated: int, processes: int, length: int
) -> None:
    options = TrainOptions(
        tokens=str(tokens), batch_size=rows, gradient_accumulation_steps=accumulated, sequence_length=length
    )
    plan = plan_of(options, CPU, processes)
    assert plan.tokens_per_step == rows * accumulated * processes * length
    assert plan.steps == 1 or abs(plan.steps * plan.tokens_per_step - tokens) <= plan.tokens_per_step / 2
    assert 1 <= plan.eval_every <= plan.steps
    assert plan.warmup_steps < plan.steps


def test_defaults_depend_on_the_run() -> None:
    plan = plan_of(TrainOptions(tokens="4096k", batch_size=8, sequence_length=512), CPU)
    assert (plan.steps, plan.eval_every, plan.save_every, plan.log_every) == (1000, 100, 100, 10)
    assert (plan.warmup_steps, plan.decay_steps, plan.lr, plan.bf16) == (50, 200, 1e-3, False)
    assert plan_of(TrainOptions(optimizer="sgd"), CPU).lr == 0.1
    assert plan_of(TrainOptions(eval_every=7), CPU).save_every == 7


def test_bfloat16_on_request() -> None:
    assert plan_of(TrainOptions(mixed_precision="bf16"), CPU).bf16
    assert not plan_of(TrainOptions(mixed_precision="no"), CPU).bf16
