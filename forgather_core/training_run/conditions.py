"""Conditions for starting or resuming a training run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers.integrations import get_available_reporting_integrations

from ..checkpoint import find_latest_checkpoint
from ..checkpoint.write.steps import CHECKPOINTS
from ..errors import DataError, TrainingError
from ..options.train_options import TrainOptions
from ..settings.resolved_model import ResolvedModel
from .evaluation import HeldOut
from .plan import Plan
from .record import read_record
from .trainer import POSITION

_DTYPES = {None, "float32", "fp32", "float64", "fp64"}
# Options that do not change the training steps: a run may continue with other values.
_CHANGEABLE = {"resume", "log_every", "save_every", "save_total_limit", "report_to", "eval_every"}


def check_train_options(options: TrainOptions) -> None:
    """Check that options do not contradict each other, before any work is done.

    Raises:
        DataError: There is no dataset.
        TrainingError: Options contradict each other, or a tracker is not installed.
    """
    if options.dataset_project is None:
        raise DataError("is missing", option="--dataset-project", hint="name a file or directory of text, or stdlib")
    if options.report_to:
        known = sorted({*get_available_reporting_integrations(), "none"})
        for name in (name.strip() for name in options.report_to.split(",")):
            if name not in known:
                problem = f"'{name}' is not an installed tracker (installed: {', '.join(known)})"
                raise TrainingError(problem, option="--report-to", hint="install its package, or choose another")
    if options.fuse_optim_with_backward:
        flag = "--fuse-optim-with-backward"
        if options.max_grad_norm:
            problem = "requires --max-grad-norm 0: gradients are freed before their norm is known"
            raise TrainingError(problem, option=flag, hint="add --max-grad-norm 0, or drop the flag")
        if options.gradient_accumulation_steps > 1:
            problem = "requires --gradient-accumulation-steps 1: gradients are freed after each batch"
            raise TrainingError(problem, option=flag, hint="drop one of them")
        if options.optimizer == "muon":
            raise TrainingError("does not support muon", option=flag, hint="use adamw or sgd")


def check_supported(resolved: ResolvedModel, options: TrainOptions, processes: int) -> None:
    """Check that the options are supported with this model and this number of processes.

    Raises:
        TrainingError: An option is not supported.
    """
    if options.fuse_optim_with_backward and processes > 1:
        problem = "does not support several processes: each would train on its own gradients"
        raise TrainingError(problem, option="--fuse-optim-with-backward", hint="drop the flag")
    if resolved.build.dtype not in _DTYPES:
        problem, hint = "must be float32: other dtypes round small updates away", "use --mixed-precision bf16"
        raise TrainingError(problem, option="--dtype", hint=hint)


def checkpoint_to_resume(directory: Path, options: TrainOptions, resolved: ResolvedModel, plan: Plan) -> Path | None:
    """Return the checkpoint from which the run continues, or None for a new run.

    Raises:
        TrainingError: There are checkpoints, but `resume` is not set; or the run cannot continue with these options.
    """
    latest = find_latest_checkpoint(directory / CHECKPOINTS)
    if latest is None:
        return None
    if not options.resume:
        hint = "add --resume to continue it, remove that directory, or choose another --output-dir"
        raise TrainingError("has the checkpoints of a run", file=directory / CHECKPOINTS, hint=hint)
    if not (latest / POSITION).exists():
        raise TrainingError("was not saved by forgather model train", file=latest, hint="choose another --output-dir")
    before = read_record(directory)
    if before.get("final") is not None:
        raise TrainingError("the run has ended", file=directory, hint="choose another --output-dir to train again")
    old = before.get("options", {})
    for name, value in asdict(options).items():
        if name not in _CHANGEABLE and name in old and old[name] != plain(value):
            problem = f"is {plain(value)}, but the run began with {old[name]}"
            flag = f"--{name.replace('_', '-')}"
            raise TrainingError(problem, option=flag, hint="continue with the same value, or begin another run")
    if "setup" in before and before["setup"]["seed"] != resolved.build.seed:
        problem = f"is {resolved.build.seed}, but the run began with {before['setup']['seed']}"
        raise TrainingError(problem, option="--seed", hint="continue with the same value")
    if "plan" in before and before["plan"]["processes"] != plan.processes:
        problem = f"the run began with {before['plan']['processes']} processes, and there are {plan.processes}"
        raise TrainingError(problem, hint=f"start {before['plan']['processes']} processes")
    for name, value in (("dtype", resolved.build.dtype), ("attn_implementation", resolved.build.attn_implementation)):
        if "setup" in before and before["setup"].get(name) != value:
            problem = f"is {value}, but the run began with {before['setup'].get(name)}"
            raise TrainingError(problem, option=f"--{name.replace('_', '-')}", hint="continue with the same value")
    if "plan" in before and before["plan"]["bf16"] != plan.bf16:
        now, began_with = ("bf16" if bf16 else "no" for bf16 in (plan.bf16, before["plan"]["bf16"]))
        problem = f"auto means {now} on this device, but the run began with {began_with}"
        raise TrainingError(problem, option="--mixed-precision", hint="continue on the same kind of device")
    return latest


def refuse_changed_data(directory: Path, held_out: HeldOut) -> None:
    """Refuse to continue a run whose held-out documents were different.

    Raises:
        DataError: They are not those that the record of the run states.
    """
    before = read_record(directory).get("data", {}).get("held_out", {}).get("digest")
    if before not in (None, held_out.digest):
        problem = "the data has changed since the run began: the held-out documents are different"
        raise DataError(problem, option="--dataset-project", hint="restore the data, or begin a new run")


def plain(value: Any) -> Any:
    """Return the value of an option as plain data."""
    return str(value) if isinstance(value, Path) else value
