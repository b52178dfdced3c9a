"""Report of a training check as plain data: loss, speed, memory, and notes for the user."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import first_line
from ..estimate import known_device
from ..model.build import is_checkpointing
from ..model.parameters import parameter_table
from ..options.command_options import TestOptions
from ..training.loop import TrainingResult
from ..training.loss import can_skip_logits
from .step_estimate import StepEstimate, estimate_step

if TYPE_CHECKING:
    from ..commands.construct import ConstructedModel

FAR_FROM_UNIFORM = 1.5  # nats: logits of variance v put the first loss about v / 2 above ln(vocabulary)


def report_of(
    made: ConstructedModel,
    options: TestOptions,
    data: str,
    trained: TrainingResult | None = None,
    *,
    host_before: int | None = None,
) -> dict[str, Any]:
    """Return the report of a training check.

    Args:
        made: The constructed model.
        options: Steps and batch.
        data: Name of the training data.
        trained: Result of the training loop; None on meta, where the report has only the FLOPs and memory of a step.
        host_before: Memory of the process before the first step, in bytes.

    Returns:
        A mapping with model_name, setup, parameters, steps, loss, trained_weights, speed, memory and notes.
    """
    early = trained is not None and trained.ended is not None
    # No estimate after an interruption: it would delay the exit.
    step_estimate, estimate_notes = (None, []) if early else _step_estimate(made, options)
    table = parameter_table(made.model)
    return {
        "model_name": made.resolved.model_name,
        "setup": _setup(made, options, data),
        "parameters": {"total": table.total, "trainable": table.trainable, "bytes": table.bytes},
        "steps": [step.as_dict() for step in trained.steps] if trained else [],
        "loss": _loss(made.model, trained) if trained else None,
        "trained_weights": _trained_weights(made) if trained else None,
        "speed": _speed(made, trained, step_estimate),
        "memory": _memory(trained, step_estimate if made.mesh is None else None, host_before),
        "notes": [*made.directory.notes, *estimate_notes, *_notes(made, options, trained)],
    }


def _step_estimate(made: ConstructedModel, options: TestOptions) -> tuple[StepEstimate | None, list[str]]:
    """Return the step estimate and notes: None and the reason if the step cannot be traced."""
    try:
        return estimate_step(made.resolved, options, made.directory.path), []
    except Exception as error:
        if next(made.model.parameters()).is_meta:
            raise  # on meta the estimate is the only result
        reason = f"{type(error).__name__}: {first_line(error)}"
        return None, [f"there is no estimate of memory and FLOPs, because the step cannot be traced: {reason}"]


def _setup(made: ConstructedModel, options: TestOptions, data: str) -> dict[str, Any]:
    model, rows = made.model, options.batch_size
    parts = made.mesh.sizes.data if made.mesh is not None else 1
    shared = f" ({rows} rows in each of {parts} parts)" if parts > 1 else ""
    first = next(model.parameters())
    packed = f", packed {options.packing or 'greedy'}" if options.packed else ""
    chunked = can_skip_logits(model) and not options.full_logits
    return {
        "directory": str(made.directory.path),
        "device": str(first.device),
        "parallel": str(made.mesh.sizes) if made.mesh is not None else None,
        "dtype": str(first.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,  # type: ignore[union-attr]
        "gradient_checkpointing": is_checkpointing(model),
        "compiled": options.compile,
        "data": data,
        "batch": f"{rows * parts} x {options.sequence_length}{shared}{packed}",
        "loss": "chunked, without full logits" if chunked else "from full logits",
        "weights": _weights(made),
        "optimizer": f"{_OPTIMIZERS[options.optimizer]}, lr {options.lr:g}"
        + (", fused with backward" if options.fuse_optim_with_backward else ""),
    }


_OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW"}


def _weights(made: ConstructedModel) -> str:
    """Return the origin of the trained weights."""
    build = made.resolved.build
    if next(made.model.parameters()).is_meta:
        return "none, on meta"
    if made.loaded is not None:
        count = len(made.loaded.missing) + len(made.loaded.other_shape)
        fresh = f"; {count} of {count + made.loaded.tensors} tensors fresh, seed {build.seed}" if count else ""
        return f"loaded from {build.load_from_checkpoint}{fresh}"
    return f"fresh, seed {build.seed}"


def _trained_weights(made: ConstructedModel) -> str:
    """Return a phrase that states that the trained weights are discarded, and which checkpoint is unchanged."""
    if made.saved is not None:
        return f"discarded; {made.directory.path} holds the weights from before the test"
    if made.loaded is not None:
        return f"discarded; {made.resolved.build.load_from_checkpoint} is unchanged"
    return "discarded; test does not save them"


def _loss(model: nn.Module, trained: TrainingResult) -> dict[str, float | None]:
    steps, after = trained.steps, trained.first_batch_after
    return {
        "first": steps[0].loss,
        "last": steps[-1].loss,
        "change": steps[-1].loss - steps[0].loss,
        "first_batch_after": after,
        "first_batch_decrease": steps[0].loss - after if after is not None else None,
        "uniform": math.log(model.config.vocab_size),  # type: ignore[union-attr, arg-type]
    }


def _speed(
    made: ConstructedModel, trained: TrainingResult | None, step_estimate: StepEstimate | None
) -> dict[str, Any]:
    """Return medians over the steps after the first, which warms up and compiles, or of a single step."""
    flops = step_estimate.flops_per_token if step_estimate else None
    if trained is None:
        return {"flops_per_token": flops}
    steps = trained.steps[1:] or trained.steps
    tokens = median(step.tokens_per_second for step in steps)
    # FLOPs are spent on padding too.
    positions = median(step.tokens_per_second / step.batch_utilization for step in steps)
    device = known_device(next(made.model.parameters()).device)
    peak = device.flops_in(step_estimate.precision) if device and step_estimate else None
    devices = made.mesh.sizes.processes if made.mesh is not None else 1
    return {
        "flops_per_token": flops,
        "tokens_per_second": tokens,
        "batch_utilization": mean(step.batch_utilization for step in trained.steps),
        "flops_per_second": flops * positions if flops else None,
        "device": device.name if device else None,
        "mfu": flops * positions / (devices * peak) if flops and peak else None,
    }


def _memory(
    trained: TrainingResult | None, step_estimate: StepEstimate | None, host_before: int | None
) -> dict[str, Any]:
    steps = trained.steps if trained else ()
    on_device = [step.device_memory for step in steps if step.device_memory is not None]
    on_host = max((step.host_memory for step in steps), default=None)
    return {
        "estimated": step_estimate.memory if step_estimate else None,
        "parts": step_estimate.parts if step_estimate else None,
        "saved": step_estimate.saved if step_estimate else None,
        "device_peak": max(on_device, default=None),
        "host_peak": on_host,
        "host_before": host_before,
    }


def _notes(made: ConstructedModel, options: TestOptions, trained: TrainingResult | None) -> Iterator[str]:
    model = made.model
    longest = getattr(model.config, "max_position_embeddings", None)
    if isinstance(longest, int) and options.sequence_length > longest:
        yield f"--sequence-length {options.sequence_length} exceeds the model's max_position_embeddings ({longest})"
    if made.mesh is not None:
        yield f"memory of a device of a mesh is not estimated here: use estimate --parallel {made.mesh.sizes}"
    if trained is None:
        yield "nothing is trained on meta: to train, use --device cpu or --device cuda"
        return
    first, dtype = trained.steps[0].loss, str(next(model.parameters()).dtype).removeprefix("torch.")
    if trained.ended is not None:
        yield f"ended early, after {len(trained.steps)} of {options.steps} steps: {trained.ended}"
    after = trained.first_batch_after
    if after == first and options.lr > 0:
        yield (
            f"the loss on the first batch did not change, it is {first:.4f} before and after: updates with "
            f"--lr {options.lr:g} are rounded away in {dtype}, or no gradient reaches the weights"
        )
    if after is not None and after > first:
        yield (
            f"the loss on the first batch rose from {first:.4f} before to {after:.4f} after the last step: "
            f"--lr {options.lr:g} is too large for these batches, or a gradient is wrong"
        )
    if trained.without_gradient:
        names = ", ".join(trained.without_gradient)
        yield f"no gradient reached these parameters, which are outside the graph: {names}"
    if made.loaded is not None:
        yield from (*made.loaded.notes, *made.loaded.problems())
    else:
        yield from _initial_weight_notes(model, trained)


def _initial_weight_notes(model: nn.Module, trained: TrainingResult) -> Iterator[str]:
    if trained.exploding:
        yield f"the initial weights make activations explode: {trained.exploding}"
    first, uniform = trained.steps[0].loss, math.log(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    if abs(first - uniform) <= FAR_FROM_UNIFORM:
        return
    why = "the initial logits are too large, or tokens attend to their targets"
    if getattr(model.config, "tie_word_embeddings", False):  # the head is the embedding of the input tokens
        why = f"the tied embeddings make a fresh model predict its input token, or {why}"
    yield f"the first loss is {first:.2f}, but a fresh model should be near ln(vocabulary) = {uniform:.2f}: {why}"
