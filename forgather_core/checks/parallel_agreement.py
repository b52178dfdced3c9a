"""Parallel agreement: the processes of a device mesh compute what a single process does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..definitions import contracts
from ..definitions.check import Details, DoesNotApply, Measured, check, expect
from ..errors import BuildError
from ..options.parallel import ParallelSizes, parallel_sizes
from ..parallel.splits import check_split, tensor_plan
from .shared.compared_gradients import compare_gradients, loss_and_gradients
from .shared.mesh_rank import MeshTask, adamw
from .shared.mesh_run import MeshRunError, run_mesh
from .shared.model_under_test import LENGTH, ModelUnderTest
from .shared.tolerance import compare, different_tensors, rounding

_ROWS = 2  # of each part of a batch
_FEW = 3  # targets of the rows of the first part
_DOCUMENT = 7  # tokens of the first document of a packed row


@check(
    "parallel-agreement",
    cause="a parallel plan, an initialization or a loss that depends on the process; a buffer that only one has",
)
def parallel_agreement(subject: ModelUnderTest) -> Iterator[Measured | Details]:
    """Processes of a mesh have the weights, logits, loss, gradients and optimizer step of a single process."""
    if subject.scope.parallel is None:
        raise DoesNotApply("requires --parallel")
    sizes = parallel_sizes(subject.scope.parallel)
    yield Details({"mesh": str(sizes), "processes": sizes.processes})
    try:
        check_split(subject.text_config.to_dict(), tensor_plan(subject.config()), sizes)
    except BuildError as error:
        raise DoesNotApply(f"the small copy is too small: {error.problem}; add --full") from None
    model = subject.randomized_model(**subject.no_dropout)
    with subject.scratch() as directory:
        saved = subject.save(model, directory)
        task = _task(subject, str(sizes), str(saved), sizes)
        results = directory / "results"
        results.mkdir()
        try:
            ranks = run_mesh(task, sizes.processes, results)
        except MeshRunError as error:
            yield expect("every process computes the model", False, failure=f"{sizes}: {error}")
            return
        yield expect("every process computes the model", True)
        yield from _compare_weights(subject, model, ranks, sizes)
        yield from _compare_steps(model, task, ranks, sizes)
        with Checkpoint.open(results / "saved") as checkpoint:
            yield _compare_saved(model, checkpoint, ranks[0]["stepped"])


def _compare_saved(model: Any, checkpoint: Checkpoint, weights: dict[str, Tensor]) -> Measured:
    tied = getattr(model, "all_tied_weights_keys", None) or {}  # a checkpoint has one of their names
    expected = {tied.get(name, name): one for name, one in weights.items()}
    names = {tied.get(name, name): name for name in checkpoint}
    stored = {name: checkpoint[names[name]].tensor() for name in expected if name in names}
    wrong = different_tensors(stored, expected)
    return expect("a saved checkpoint has the weights of the processes", not wrong, ", ".join(wrong[:3]))


def _task(subject: ModelUnderTest, parallel: str, model: str, sizes: ParallelSizes) -> MeshTask:
    rows = _ROWS * sizes.data
    ids = subject.tokens(rows)
    labels = ids.clone()
    labels[:_ROWS, 1 + _FEW :] = -100  # the parts of the batch have different numbers of targets
    packed = None
    if subject.made_by_forgather:
        positions = torch.cat([torch.arange(_DOCUMENT), torch.arange(LENGTH - _DOCUMENT)])
        packed = {"input_ids": ids, "position_ids": positions.expand(rows, LENGTH).contiguous()}
    batch = {"input_ids": ids, "labels": labels}
    return MeshTask(parallel, model, subject.seed, batch, packed, plain=subject.made_by_forgather)


def _compare_weights(
    subject: ModelUnderTest, model: Any, ranks: list[dict[str, Any]], sizes: ParallelSizes
) -> Iterator[Measured]:
    fresh = subject.fresh_model(**subject.no_dropout)
    initial, loaded = dict(fresh.named_parameters()), dict(model.named_parameters())
    for rank, found in enumerate(ranks):
        on = f"on process {rank}"
        if contracts.initial_weights(fresh) is not None:
            wrong = different_tensors(found["initial"], _detached(initial))
            failure = f"the initial weights {on} differ from those of a single process"
            yield expect(f"initial weights {on}", not wrong, ", ".join(wrong[:3]), failure=failure)
        wrong = different_tensors(found["buffers"], dict(fresh.named_buffers()))
        failure = f"the buffers {on} differ from those of a single process: reset_buffers() must fill each"
        yield expect(f"buffers {on}", not wrong, ", ".join(wrong[:3]), failure=failure)
        if "plain" in found:
            wrong = different_tensors(found["plain"], _detached(initial))
            wrong += different_tensors(found["plain_buffers"], dict(fresh.named_buffers()))
            failure = (
                f"fully_shard, to_empty and init_weights() {on} give other weights or buffers than one process has"
            )
            yield expect(
                f"initial weights and buffers of plain FSDP2 {on}", not wrong, ", ".join(wrong[:3]), failure=failure
            )
        wrong = different_tensors(found["loaded"], _detached(loaded))
        yield expect(f"loaded weights {on}", not wrong, ", ".join(wrong[:3]))
        untied = found["tied"] != len(loaded)
        yield expect(f"tied weights {on} are one parameter", not untied)
        parts = sizes.fsdp * sizes.tp
        whole = parts > 1 and found["held"] > found["split"] * (1 / parts + 0.5 * (1 - 1 / parts))
        failure = f"process {rank} holds {found['held']:,} of {found['split']:,} parameters: the plan splits too few"
        yield expect(f"process {rank} holds a part of the model", not whole, failure=failure)


def _compare_steps(model: Any, task: MeshTask, ranks: list[dict[str, Any]], sizes: ParallelSizes) -> Iterator[Measured]:
    tolerance = rounding(model, tokens=LENGTH)
    model.eval()
    with torch.no_grad():
        logits = model(task.batch["input_ids"], use_cache=False).logits
        packed = model(**task.packed, use_cache=False).logits if task.packed is not None else None
    model.train()
    count = int((task.batch["labels"][:, 1:] != -100).sum())
    arguments = {"num_items_in_batch": torch.tensor(count)}
    loss, gradients = loss_and_gradients(model, **task.batch, **arguments, use_cache=False)
    norm = torch.stack([one.norm() for one in gradients.values()]).norm()
    adamw(model.parameters()).step()
    stepped = {name: one.detach() for name, one in model.named_parameters()}
    for rank, found in enumerate(ranks):
        on, part = f"on process {rank}", found["part"]
        yield compare(f"logits {on}", found["logits"], logits.chunk(sizes.data)[part], tolerance)
        if packed is not None:
            yield compare(f"logits of packed rows {on}", found["packed"], packed.chunk(sizes.data)[part], tolerance)
        failure = f"the loss {on} is not the mean over the targets of all processes"
        error = abs(float(found["loss"]) - float(loss)) / max(abs(float(loss)), 1e-30)
        yield Measured(f"loss over unequal numbers of targets {on}", error, tolerance, failure=failure)
        yield compare_gradients(f"gradients {on}", found["gradients"], gradients, tolerance)
        failure = f"the norm of all gradients {on} is {float(found['norm']):.4g}; that of one process {float(norm):.4g}"
        yield replace(compare(f"gradient norm {on}", found["norm"], norm, 2 * tolerance), failure=failure)
        yield _compare_step(f"weights after a step of AdamW {on}", found["stepped"], stepped, tolerance)


def _compare_step(what: str, found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> Measured:
    if found.keys() != expected.keys():
        names = ", ".join(sorted(found.keys() ^ expected.keys()))
        return expect(what, False, failure=f"{what}: other parameters: {names}")
    measured = {name: compare(name, found[name], one, 2 * tolerance) for name, one in expected.items()}
    worst = max(measured, key=lambda name: measured[name].error)
    return Measured(what, measured[worst].error, 2 * tolerance, worst)


def _detached(tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {name: one.detach() for name, one in tensors.items()}
