"""Splits over tensor-parallel processes that cannot work are refused with numbers that fit."""

from __future__ import annotations

from typing import Any

import pytest

from forgather_core.errors import BuildError
from forgather_core.options.parallel import ParallelSizes
from forgather_core.parallel.splits import check_split
from forgather_core.parts.parallel_plans import GATED_FEED_FORWARD, HEADS

VALUES: dict[str, Any] = {
    "num_attention_heads": 12, "num_key_value_heads": 4, "vocab_size": 100, "intermediate_size": 50,
}  # fmt: skip
PLAN = HEADS | GATED_FEED_FORWARD


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_divisors_of_the_heads_fit(tp: int) -> None:
    check_split(VALUES, PLAN, ParallelSizes(tp=tp))


@pytest.mark.parametrize(
    ("values", "plan", "tp", "message"),
    [
        (VALUES, PLAN, 3, "--parallel: tp=3 cannot split 4 key/value heads: use tp=1, tp=2 or tp=4"),
        (VALUES, PLAN, 8, "--parallel: tp=8 cannot split 12 heads: use tp=1, tp=2 or tp=4"),
        (VALUES | {"num_key_value_heads": None}, PLAN, 8, "--parallel: tp=8 cannot split 12 heads"),
        (VALUES | {"num_key_value_heads": 1}, PLAN, 2, "cannot split 1 key/value heads: use tp=1"),
        (VALUES | {"intermediate_size": 3}, PLAN, 4, "tp=4 cannot split 3 hidden channels: use at most tp=3"),
        (VALUES | {"vocab_size": 3}, GATED_FEED_FORWARD, 5, "tp=5 cannot split 3 entries of the vocabulary"),
        (
            VALUES | {"vocab_size": 5},
            GATED_FEED_FORWARD,
            4,
            "tp=4 cannot split 5 entries of the vocabulary: use at most tp=3",
        ),
        (
            VALUES | {"vocab_size": 9},
            GATED_FEED_FORWARD,
            8,
            "tp=8 cannot split 9 entries of the vocabulary: use at most tp=5",
        ),
        (VALUES, {}, 2, "--parallel: tp requires a model with a tensor-parallel plan: use fsdp or ddp"),
    ],
)
def test_other_splits_are_refused(values: dict[str, Any], plan: dict[str, str], tp: int, message: str) -> None:
    with pytest.raises(BuildError) as error:
        check_split(values, plan, ParallelSizes(fsdp=2, tp=tp))
    assert message in str(error.value)


def test_a_plan_without_attention_needs_no_heads() -> None:
    check_split(VALUES | {"num_attention_heads": 1}, GATED_FEED_FORWARD, ParallelSizes(tp=5))


def test_copies_and_shards_need_no_plan() -> None:
    check_split(VALUES, {}, ParallelSizes(ddp=3, fsdp=5))
