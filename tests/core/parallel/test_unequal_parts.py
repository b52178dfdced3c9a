"""Parts of a batch with few or no targets, and frozen parameters: losses and gradients are those of one process."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import pytest
import torch

import forgather
from forgather_core.data.batches import IGNORE_INDEX, Batch
from forgather_core.training.loop import train
from forgather_core.training.optimizers import PlainStepper, optimizer_of
from forgather_core.training.row_share import RowShare
from tests.support.ranks import run_ranks

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "seed": 5, "device": "cpu"}
FROZEN = "model.layers.0.mlp.up_proj.weight"


def trained(
    folder: str, name: str, mesh: str | None, targets: tuple[int, ...]
) -> tuple[list[float], list[float], bool]:
    """Train two steps on four rows with so many targets each; return losses, norms, and whether frozen weights stay."""
    model: Any = forgather.construct(name, output_dir=f"{folder}/{mesh}", **SMALL, parallel=mesh).model
    frozen = model.get_parameter(FROZEN)
    frozen.requires_grad_(False)
    before = frozen.detach().clone()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 1000, (4, 8), generator=generator)
    labels = ids.clone()
    for row, count in enumerate(targets):
        labels[row, 1 + count :] = IGNORE_INDEX
    share = None if mesh is None else RowShare(torch.distributed.get_rank(), 2)
    stepper = PlainStepper(model, optimizer_of("adamw", "cpu", lr=0.01, sharded=mesh is not None))
    batch = Batch({"input_ids": ids, "labels": labels}, tokens=ids.numel())
    result = train(model, repeat(batch), stepper, steps=2, share=share)
    unchanged = bool(
        (getattr(frozen, "to_local", lambda: frozen)() == getattr(before, "to_local", lambda: before)()).all()
    )
    losses = [step.loss for step in result.steps] + [result.first_batch_after or 0.0]
    return losses, [step.grad_norm for step in result.steps], unchanged


@pytest.mark.parametrize("targets", [(7, 7, 0, 0), (7, 3, 1, 0)])
@pytest.mark.parametrize(("name", "mesh"), [("llama", "fsdp"), ("deepone", "ddp")])
def test_unequal_parts_train_as_one_batch(name: str, mesh: str, targets: tuple[int, ...], tmp_path: Any) -> None:
    losses, norms, unchanged = trained(str(tmp_path), name, None, targets)
    assert unchanged
    for found in run_ranks(trained, 2, str(tmp_path), name, mesh, targets, seconds=60):
        assert isinstance(found, tuple), found
        assert found[0] == pytest.approx(losses, abs=1e-5)
        assert found[1] == pytest.approx(norms, rel=1e-4)
        assert found[2]
