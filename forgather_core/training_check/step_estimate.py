"""Estimate a training step of the check: peak memory, the memory that each option saves, and FLOPs/token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..estimate import memory_of, memory_of_options, step_options
from ..options.command_options import EstimateOptions, TestOptions
from ..settings.resolved_model import ResolvedModel


@dataclass(frozen=True)
class StepEstimate:
    """Estimate of a training step.

    Args:
        memory: Peak memory in bytes.
        parts: Bytes at the peak by kind: weights, gradients, activations, ...
        saved: For each enabled option, the bytes by which the peak would be higher without it.
        flops_per_token: FLOPs/token of training, by convention three times those of the forward pass.
        precision: fp32, bf16, fp16 or fp64.
    """

    memory: int
    parts: dict[str, int]
    saved: dict[str, int]
    flops_per_token: float
    precision: str


def estimate_step(resolved: ResolvedModel, options: TestOptions, directory: Path) -> StepEstimate:
    """Estimate the peak memory and the FLOPs/token of a training step.

    Args:
        resolved: The resolved model.
        options: Batch, optimizer and memory options of the step.
        directory: The model directory.
    """
    rows, length = options.batch_size, options.sequence_length
    step = step_options(options)
    memory, precision = memory_of_options(resolved, options, directory)
    peak = memory.training(rows, length).peak
    saved: dict[str, int] = {}

    def estimate_without(switch: str, resolved: ResolvedModel = resolved, step: EstimateOptions = step) -> None:
        other, _ = memory_of(resolved, step, directory, packed=options.packed)
        saved[switch] = other.training(rows, length).peak.bytes - peak.bytes

    if resolved.build.gradient_checkpointing:
        build = replace(resolved.build, gradient_checkpointing=False)
        estimate_without("gradient_checkpointing", replace(resolved, build=build))
    if options.fuse_optim_with_backward:
        estimate_without("fuse_optim_with_backward", step=replace(step, fuse_optim_with_backward=False))
    if not options.full_logits:
        estimate_without("chunked_loss", step=replace(step, full_logits=True))
    forward = memory.forward(rows, length).total_flops("forward")
    return StepEstimate(peak.bytes, dict(peak.parts), saved, 3 * forward / (rows * length), precision)
