"""Conditions for starting or resuming a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.integrations import get_available_reporting_integrations

from ..errors import DataError, TrainingError
from ..options.parallel import ParallelSizes
from ..options.train_options import TrainOptions
from ..settings.resolved_model import ResolvedModel
from ..training.combined_optimizer import check_optimizer

_DTYPES = {None, "float32", "fp32", "float64", "fp64"}


def check_train_options(options: TrainOptions) -> None:
    """Check that the options do not contradict each other, before any work is done.

    Raises:
        DataError: `dataset_project` is missing.
        TrainingError: Options contradict each other, or a tracker is not installed.
    """
    if options.dataset_project is None:
        raise DataError("is required", option="--dataset-project", hint="name a file or directory of text, or stdlib")
    if options.report_to:
        known = sorted({*get_available_reporting_integrations(), "none"})
        for name in (name.strip() for name in options.report_to.split(",")):
            if name not in known:
                problem = f"'{name}' is not an installed tracker (installed: {', '.join(known)})"
                raise TrainingError(problem, option="--report-to", hint="install its package, or remove --report-to")
    if options.fuse_optim_with_backward:
        flag = "--fuse-optim-with-backward"
        if options.max_grad_norm:
            problem = "requires --max-grad-norm 0: gradients are freed before their norm is known"
            raise TrainingError(problem, option=flag, hint=f"add --max-grad-norm 0, or remove {flag}")
        if options.gradient_accumulation_steps > 1:
            problem = "requires --gradient-accumulation-steps 1: gradients are freed after each batch"
            raise TrainingError(problem, option=flag, hint="remove one of the two options")
    check_optimizer(options.optimizer, in_backward=options.fuse_optim_with_backward)


def check_supported(
    resolved: ResolvedModel, options: TrainOptions, sizes: ParallelSizes, *, sharded: bool = False
) -> None:
    """Check that the options are supported with this model and these processes.

    Args:
        resolved: The resolved model.
        options: The options of the run.
        sizes: The sizes of the mesh.
        sharded: Whether the model is distributed over the mesh.

    Raises:
        TrainingError: An option is not supported.
    """
    if sharded and options.optimizer == "muon":
        problem = "muon requires whole matrices, which a process of fsdp or tp does not have"
        raise TrainingError(problem, option="--optimizer", hint="use adamw or sgd, or --parallel ddp")
    if sharded and options.compile:
        problem = "does not support a model that is distributed by fsdp or tp"
        raise TrainingError(problem, option="--compile", hint="remove it, or use --parallel ddp")
    if options.fuse_optim_with_backward and sizes.processes > 1:
        problem = "does not support several processes: each would train on its own gradients"
        raise TrainingError(problem, option="--fuse-optim-with-backward", hint="remove it, or use one process")
    if resolved.build.dtype not in _DTYPES:
        problem = "must be float32 or float64: other dtypes round small updates away"
        hint = "remove it, and train with --mixed-precision bf16"
        raise TrainingError(problem, option="--dtype", hint=hint)


def plain(value: Any) -> Any:
    """Return the value of an option as plain data."""
    return str(value) if isinstance(value, Path) else value
