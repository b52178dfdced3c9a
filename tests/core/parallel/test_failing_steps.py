"""A value that is not finite in one process is explained in all of them, and none waits for another."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import pytest
import torch

import forgather
from forgather_core.data.batches import Batch
from forgather_core.errors import TrainingCheckError
from forgather_core.training.loop import train
from forgather_core.training.optimizers import FusedStepper, PlainStepper, optimizer_of
from forgather_core.training.row_share import RowShare
from tests.support.ranks import run_ranks

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "device": "cpu", "parallel": "fsdp"}


def broken(folder: str, fused: bool, where: str) -> None:
    made = forgather.construct("llama", output_dir=f"{folder}/model", **SMALL)
    model: Any = made.model
    if torch.distributed.get_rank() == 1:
        layer = model.model.layers[1].mlp
        if where == "forward":
            layer.register_forward_hook(lambda module, args, output: output * torch.nan)
        else:
            layer.register_full_backward_hook(lambda module, grads, _: tuple(torch.nan * grad for grad in grads))
    ids = torch.randint(3, 1000, (4, 8))
    batch = Batch({"input_ids": ids, "labels": ids}, tokens=ids.numel())
    stepper = (FusedStepper if fused else PlainStepper)(model, optimizer_of("sgd", "cpu", lr=0.1, sharded=True))
    train(model, repeat(batch), stepper, steps=1, share=RowShare(torch.distributed.get_rank(), 2))


@pytest.mark.parametrize(
    ("fused", "where", "message"),
    [
        (False, "forward", "step 1: the loss is nan: model.layers.1 is the first module with finite input"),
        (True, "forward", "step 1: the loss is nan: model.layers.1 is the first module with finite input"),
        (False, "backward", "a gradient is not finite: forward is finite; backward is not examined over several proc"),
    ],
)
def test_one_process_with_nan_is_that_of_all(tmp_path: Any, fused: bool, where: str, message: str) -> None:
    for found in run_ranks(broken, 2, str(tmp_path), fused, where, seconds=60):
        assert isinstance(found, TrainingCheckError), found
        assert message in str(found)
