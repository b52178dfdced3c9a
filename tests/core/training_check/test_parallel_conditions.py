"""Options of a training step that several processes do not support are refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forgather_core.commands.parallel import check_parallel
from forgather_core.definitions.registry import registry
from forgather_core.errors import BuildError, ConfigurationError, TrainingError
from forgather_core.options.parallel import ParallelSizes
from forgather_core.options.train_options import TrainOptions
from forgather_core.parallel.splits import check_fused, tensor_plan
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve as resolve_options
from forgather_core.settings.resolved_model import ResolvedModel
from forgather_core.training_run.conditions import check_supported


def resolve(name: str, **options: Any) -> ResolvedModel:
    return resolve_options(find_configuration(name, registry(), Path()), options)


def test_gradients_that_are_summed_after_backward_are_not_fused() -> None:
    qwen3, llama = (tensor_plan(resolve(name).definition.config_class()) for name in ("qwen3", "llama"))
    with pytest.raises(BuildError, match="--fuse-optim-with-backward does not support tp for this model"):
        check_fused(qwen3, ParallelSizes(tp=2))
    check_fused(qwen3, ParallelSizes(fsdp=2))
    check_fused(llama, ParallelSizes(tp=2))


def test_a_split_is_checked_with_the_plan_of_the_definition() -> None:
    assert check_parallel(resolve("llama", parallel="tp"), 2) == ParallelSizes(tp=2)
    assert check_parallel(resolve("llama"), 3) == ParallelSizes(ddp=3)
    assert check_parallel(resolve("single_head", parallel="tp"), 3) == ParallelSizes(tp=3)
    with pytest.raises(BuildError, match="tp=3 cannot split 4 heads"):
        check_parallel(resolve("llama", parallel="tp"), 3)
    with pytest.raises(ConfigurationError, match="fsdp=2 requires 2 processes, got 3"):
        check_parallel(resolve("llama", parallel="fsdp=2"), 3)
    with pytest.raises(BuildError, match="--device must be cpu or cuda with several processes; got 'cuda:1'"):
        check_parallel(resolve("llama", device="cuda:1"), 2)


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"optimizer": "muon"}, "--optimizer: muon requires whole matrices"), ({"compile": True}, "--compile does not")],
)
def test_sharded_matrices_are_not_whole(options: dict[str, object], problem: str) -> None:
    chosen = TrainOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(TrainingError) as error:
        check_supported(resolve("llama"), chosen, ParallelSizes(fsdp=2), sharded=True)
    assert problem in str(error.value)
    check_supported(resolve("llama"), chosen, ParallelSizes(ddp=2))
