"""A process of `parallel-agreement` with a planted mistake, which the environment variable MESH_MISTAKE names."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.distributed.tensor_parallel import RowwiseParallel, _use_local_dtensor_params

from forgather_core.checkpoint.write import sharded
from forgather_core.checks.shared import mesh_rank
from forgather_core.training import optimizers
from forgather_core.training.row_share import RowShare

RANK = int(os.environ["RANK"])
_inputs, _build, _adamw, _total = RowShare.inputs, mesh_rank.build, mesh_rank.adamw, RowShare.total


def _after_build(change: Callable[[Any], None]) -> None:
    def build(*args: Any, **kwargs: Any) -> Any:
        model = _build(*args, **kwargs)
        if kwargs.get("mesh") is not None:  # not the model that plain FSDP2 shards
            change(model)
        return model

    mesh_rank.build = build


def seed_per_process() -> None:
    seeded = torch.manual_seed
    torch.manual_seed = lambda seed: seeded(seed + RANK)


def loss_of_each_process() -> None:
    def inputs(self: RowShare, batch: Any) -> Any:
        rows = _inputs(self, batch)
        count = (rows["labels"][:, 1:] != -100).sum() * self.count
        return rows | {"num_items_in_batch": count}

    RowShare.inputs = inputs  # type: ignore[method-assign]


def mean_of_all_positions() -> None:
    def inputs(self: RowShare, batch: Any) -> Any:
        return _inputs(self, batch) | {"num_items_in_batch": torch.tensor(batch["labels"][:, 1:].numel())}

    RowShare.inputs = inputs  # type: ignore[method-assign]


def gradients_not_reduced() -> None:
    _after_build(lambda model: model.set_requires_all_reduce(False))


def gradients_of_the_mean() -> None:
    RowShare.loss_of_part = lambda self, loss: loss  # type: ignore[method-assign]


def tied_weights_apart() -> None:
    PreTrainedModel.tie_weights = lambda *_, **__: None  # type: ignore[method-assign]


def stale_buffer() -> None:
    _after_build(lambda model: [one.zero_() for one in model.buffers() if RANK == 1])  # type: ignore[arg-type]


def labels_of_other_rows() -> None:
    def inputs(self: RowShare, batch: Any) -> Any:
        labels = batch["labels"].chunk(self.count)[(self.index + 1) % self.count]
        return _inputs(self, batch) | {"labels": labels}

    RowShare.inputs = inputs  # type: ignore[method-assign]


def rows_of_another_process() -> None:
    RowShare.inputs = lambda self, batch: _inputs(replace(self, index=1 - self.index), batch)  # type: ignore[method-assign]


def the_same_rows() -> None:
    RowShare.inputs = lambda self, batch: _inputs(replace(self, index=0), batch)  # type: ignore[method-assign]


def loss_summed_over_copies() -> None:
    RowShare.total = lambda self, value: _total(replace(self, copies=1), value)  # type: ignore[method-assign]


def slopes_of_other_heads() -> None:
    def change(model: Any) -> None:
        for name, parameter in model.named_parameters():
            if "alibi" in name:
                parameter.data = parameter.data.clone()
                parameter.to_local().copy_(parameter.to_local() * (1 + RANK))

    loaded = mesh_rank.load_checkpoint

    def load(path: Any, model: Any) -> Any:
        report = loaded(path, model)
        with torch.no_grad():
            change(model)
        return report

    mesh_rank.load_checkpoint = load


def one_process_does_not_step() -> None:
    class Still(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            return None

    mesh_rank.adamw = lambda parameters: Still(parameters) if RANK == 1 else _adamw(parameters)


def file_lost_from_the_index() -> None:
    merged = sharded._Writer._merged

    def lost(self: Any, parts: Any, order: Any, groups: Any) -> Any:
        written = merged(self, parts, order, groups)
        weights = {name: file for name, file in written.index.weight_map.items() if file != order.names[-1]}
        return replace(written, index=replace(written.index, weight_map=weights))

    sharded._Writer._merged = lost  # type: ignore[method-assign]


def bias_of_each_process() -> None:
    def keep_bias(self: Any, module: Any, mesh: Any) -> Any:
        return _use_local_dtensor_params(module) if self.should_use_local_tensors(module) else nullcontext()

    RowwiseParallel.context_around_forward = keep_bias  # type: ignore[method-assign]


def norm_of_a_part() -> None:
    optimizers._whole = lambda norm: norm.to_local() if hasattr(norm, "to_local") else norm  # type: ignore[assignment]


def a_process_hangs() -> None:
    if RANK == 1:
        mesh_rank.save_checkpoint = lambda *_, **__: time.sleep(3600)


def a_process_raises() -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("planted")

    if RANK == 1:
        mesh_rank.save_checkpoint = fail


def a_process_dies() -> None:
    if RANK == 1:
        mesh_rank.save_checkpoint = lambda *_, **__: os._exit(3)


if __name__ == "__main__":
    globals()[os.environ["MESH_MISTAKE"]]()
    mesh_rank.main(Path(sys.argv[1]))
