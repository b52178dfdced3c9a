"""What a trial's steps should take, by the estimate: memory, what each switch saves of it, operations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..estimate import memory_of, memory_of_options, step_options
from ..options.command_options import EstimateOptions, TestOptions
from ..settings.resolve import Settings


@dataclass(frozen=True)
class StepEstimate:
    """What is known of a step before it is taken.

    Args:
        memory: Bytes at its peak.
        parts: Those bytes by what they are for.
        saved: By how many bytes the peak would be higher without each switch that is on.
        flops_per_token: Floating-point operations of training a token, by convention three times the forward pass.
        precision: fp32, bf16 or fp64.
    """

    memory: int
    parts: dict[str, int]
    saved: dict[str, int]
    flops_per_token: float
    precision: str


def estimate_step(settings: Settings, options: TestOptions, directory: Path) -> StepEstimate:
    """Estimate a training step.

    Args:
        settings: The settled options.
        options: The step.
        directory: The model's.
    """
    rows, length = options.batch_size, options.sequence_length
    step = step_options(options)
    here, precision = memory_of_options(settings, options, directory)
    found = here.training(rows, length).peak
    saved: dict[str, int] = {}

    def without(switch: str, settings: Settings = settings, step: EstimateOptions = step) -> None:
        other, _ = memory_of(settings, step, directory, packed=options.packed)
        saved[switch] = other.training(rows, length).peak.bytes - found.bytes

    if settings.build.gradient_checkpointing:
        build = replace(settings.build, gradient_checkpointing=False)
        without("gradient_checkpointing", replace(settings, build=build))
    if options.fuse_optim_with_backward:
        without("fuse_optim_with_backward", step=replace(step, fuse_optim_with_backward=False))
    if not options.full_logits:
        without("loss_in_parts", step=replace(step, full_logits=True))
    forward = here.forward(rows, length).total_flops("forward")
    return StepEstimate(found.bytes, dict(found.parts), saved, 3 * forward / (rows * length), precision)
