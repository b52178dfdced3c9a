"""What a trial found, as plain data: loss, speed, memory, and what a user must know."""

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
from ..options.shared import TestOptions
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
    """The report of a trial.

    Args:
        made: The construction.
        options: Steps, batch.
        data: What it is trained on.
        trained: What the loop found; None on meta, where only a step's operations and memory are told.
        host_before: Bytes that the process held before the first step.

    Returns:
        model_name, setup, parameters, steps, loss, trained_weights, speed, memory, notes.
    """
    early = trained is not None and trained.ended is not None
    step_estimate, unknown = (
        (None, []) if early else _step_estimate(made, options)
    )  # who stops a run does not wait for more
    table = parameter_table(made.model)
    return {
        "model_name": made.settings.model_name,
        "setup": _setup(made, options, data),
        "parameters": {"total": table.total, "trainable": table.trainable, "bytes": table.bytes},
        "steps": [step.as_dict() for step in trained.steps] if trained else [],
        "loss": _loss(made.model, trained) if trained else None,
        "trained_weights": _trained_weights(made) if trained else None,
        "speed": _speed(made.model, trained, step_estimate),
        "memory": _memory(trained, step_estimate, host_before),
        "notes": [*made.directory.notes, *unknown, *_notes(made, options, trained)],
    }


def _step_estimate(made: ConstructedModel, options: TestOptions) -> tuple[StepEstimate | None, list[str]]:
    """What a step takes; or why that is not known: what trains need not be traceable."""
    try:
        return estimate_step(made.settings, options, made.directory.path), []
    except Exception as error:
        if next(made.model.parameters()).is_meta:
            raise  # there it is the whole of the trial
        reason = f"{type(error).__name__}: {first_line(error)}"
        return None, [f"memory and operations of a step are not known, since it cannot be traced: {reason}"]


def _setup(made: ConstructedModel, options: TestOptions, data: str) -> dict[str, Any]:
    model = made.model
    first = next(model.parameters())
    packed = f", packed {options.packing or 'greedy'}" if options.packed else ""
    in_parts = can_skip_logits(model) and not options.keep_logits
    return {
        "directory": str(made.directory.path),
        "device": str(first.device),
        "dtype": str(first.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,  # type: ignore[union-attr]
        "gradient_checkpointing": is_checkpointing(model),
        "compiled": options.compile,
        "data": data,
        "batch": f"{options.batch_size} x {options.sequence_length}{packed}",
        "loss": "in parts, without logits" if in_parts else "of all logits",
        "weights": _weights(made),
        "optimizer": f"{_OPTIMIZERS[options.optimizer]}, lr {options.lr:g}"
        + (", fused with backward" if options.fuse_optim_with_backward else ""),
    }


_OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW"}


def _weights(made: ConstructedModel) -> str:
    """Where the trained weights come from."""
    build = made.settings.build
    if next(made.model.parameters()).is_meta:
        return "none, on meta"
    if made.loaded is not None:
        left = len(made.loaded.missing) + len(made.loaded.other_shape)
        fresh = f"; {left} of {left + made.loaded.tensors} tensors fresh, seed {build.seed}" if left else ""
        return f"loaded from {build.load_from_checkpoint}{fresh}"
    return f"fresh, seed {build.seed}"


def _trained_weights(made: ConstructedModel) -> str:
    """What becomes of the weights that were trained."""
    if made.saved is not None:
        return f"discarded; {made.directory.path} holds the weights from before the test"
    if made.loaded is not None:
        return f"discarded; {made.settings.build.load_from_checkpoint} is unchanged"
    return "discarded; test does not save them"


def _loss(model: nn.Module, trained: TrainingResult) -> dict[str, float | None]:
    steps = trained.steps
    return {
        "first": steps[0].loss,
        "last": steps[-1].loss,
        "change": steps[-1].loss - steps[0].loss,
        "again": trained.again,
        "learned": steps[0].loss - trained.again if trained.again is not None else None,
        "uniform": math.log(model.config.vocab_size),  # type: ignore[union-attr, arg-type]
    }


def _speed(model: nn.Module, trained: TrainingResult | None, step_estimate: StepEstimate | None) -> dict[str, Any]:
    """Of the step in the middle. The first one warms up, and compiles; it counts where it is the only one."""
    flops = step_estimate.flops_per_token if step_estimate else None
    if trained is None:
        return {"flops_per_token": flops}
    steps = trained.steps[1:] or trained.steps
    tokens = median(step.tokens_per_second for step in steps)
    # Padding is computed too.
    places = median(step.tokens_per_second / step.batch_utilization for step in steps)
    device = known_device(next(model.parameters()).device)
    peak = device.flops_in(step_estimate.precision) if device and step_estimate else None
    return {
        "flops_per_token": flops,
        "tokens_per_second": tokens,
        "batch_utilization": mean(step.batch_utilization for step in trained.steps),
        "flops_per_second": flops * places if flops else None,
        "known_as": device.name if device else None,
        "model_flops_utilization": flops * places / peak if flops and peak else None,
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
        yield f"the sequence is longer than the {longest} positions the model is made for"
    if trained is None:
        yield "on meta nothing is trained: --device cpu (or cuda) trains; steps, data and learning rate matter there"
        return
    first, dtype = trained.steps[0].loss, str(next(model.parameters()).dtype).removeprefix("torch.")
    if trained.ended is not None:
        yield f"ended early, after {len(trained.steps)} of {options.steps} steps: {trained.ended}"
    if trained.again == first and options.lr > 0:
        yield (
            f"nothing was learned: the loss of the first batch is {first:.4f} as before, to the last bit: steps of "
            f"--lr {options.lr:g} are lost in the rounding of {dtype}, or no gradient arrives"
        )
    if trained.again is not None and trained.again > first:
        yield (
            f"nothing was learned: the loss of the first batch was {first:.4f}, and is {trained.again:.4f} after the "
            f"last step: --lr {options.lr:g} is too large for these batches, or a gradient is wrong"
        )
    if trained.without_gradient:
        names = ", ".join(trained.without_gradient)
        yield f"no gradient reached these parameters, which are outside the graph: {names}"
    if made.loaded is not None:
        yield from (*made.loaded.notes, *made.loaded.problems())
    else:
        yield from _about_initial_weights(model, trained)


def _about_initial_weights(model: nn.Module, trained: TrainingResult) -> Iterator[str]:
    if trained.exploding:
        yield f"the initial weights let numbers explode: {trained.exploding}"
    first, uniform = trained.steps[0].loss, math.log(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    if abs(first - uniform) <= FAR_FROM_UNIFORM:
        return
    why = "its initial logits are too large, or a token sees itself"
    if getattr(model.config, "tie_word_embeddings", False):  # the head is the embedding that a token came in by
        why = f"with tied embeddings it begins by predicting each token again; else {why}"
    yield (f"the first loss is {first:.2f}; a fresh model's should be near ln(vocabulary) = {uniform:.2f}: {why}")
