"""The checkpoint from which a training run continues, and the conditions under which it may."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from ..checkpoint import find_latest_checkpoint
from ..checkpoint.write.steps import CHECKPOINTS
from ..data.packed_stream import POSITION_KEYS
from ..errors import DataError, TrainingError
from ..filesystem.strict_json import read_object
from ..options.train_options import TrainOptions
from ..settings.resolved_model import ResolvedModel
from .conditions import plain
from .evaluation import HeldOut
from .plan import Plan, token_count
from .record import RECORD, read_record
from .trainer import POSITION

# Options that do not change the steps (a run may continue with other values), or that are compared by their effect:
# the learning rate and the numbers of tokens below, the dataset by the digests of its documents.
_NOT_COMPARED = {
    "resume", "log_every", "save_every", "save_total_limit", "report_to", "eval_every", "lr", "tokens", "eval_tokens",
    "dataset_project",
}  # fmt: skip
_SAME = "continue with the same value, or begin another run"
_EARLIER = "remove this directory to continue from an earlier checkpoint"


def checkpoint_to_resume(directory: Path, options: TrainOptions, resolved: ResolvedModel, plan: Plan) -> Path | None:
    """Return the checkpoint from which the run continues, or None for a new run.

    Raises:
        TrainingError: There are checkpoints, but `resume` is not set; or the run cannot continue with these options.
    """
    latest = find_latest_checkpoint(directory / CHECKPOINTS)
    if latest is None:
        return None
    before = read_record(directory)
    if before.get("final") is not None:
        hint = "choose another --output-dir; to train this model further, add --load-from-checkpoint"
        raise TrainingError("contains a run that has ended", file=directory, hint=hint)
    if not options.resume:
        hint = "add --resume to continue it, remove that directory, or choose another --output-dir"
        raise TrainingError("has the checkpoints of a run", file=directory / CHECKPOINTS, hint=hint)
    if not (latest / POSITION).exists():
        raise TrainingError("was not saved by forgather model train", file=latest, hint="choose another --output-dir")
    if not before:
        problem = f"has no {RECORD}, which contains the options of the run"
        raise TrainingError(problem, file=directory, hint="choose another --output-dir")
    _check_files(latest, plan)
    _check_options(before, options, resolved, plan)
    _check_model(latest, resolved)
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


def read_position(checkpoint: Path) -> dict[str, Any]:
    """Return the position in the data of a checkpoint.

    Raises:
        TrainingError: Its file is damaged.
    """
    try:
        position = read_object(checkpoint / POSITION)
    except ValueError as error:
        raise TrainingError(f"is damaged: {error}", file=checkpoint / POSITION, hint=_EARLIER) from None
    if missing := POSITION_KEYS - position.keys():
        problem = f"is damaged: it has no '{min(missing)}'"
        raise TrainingError(problem, file=checkpoint / POSITION, hint=_EARLIER)
    return position


def _check_files(latest: Path, plan: Plan) -> None:
    """Check that a checkpoint has the state of everything that the Trainer would otherwise reset."""
    random = ["rng_state.pth"] if plan.processes == 1 else [f"rng_state_{i}.pth" for i in range(plan.processes)]
    for name in ("optimizer.pt", "scheduler.pt", TRAINER_STATE_NAME, *random):
        if not (latest / name).is_file():
            raise TrainingError(f"has no {name}", file=latest, hint=_EARLIER)


def _check_options(before: Mapping[str, Any], options: TrainOptions, resolved: ResolvedModel, plan: Plan) -> None:
    old, old_plan, old_setup = before["options"], before["plan"], before["setup"]
    if old_plan["processes"] != plan.processes:
        problem = f"the run began with {old_plan['processes']} processes, and there are {plan.processes}"
        raise TrainingError(problem, hint=f"start {old_plan['processes']} processes")
    build = resolved.build
    pairs = {name: (old[name], plain(value)) for name, value in asdict(options).items() if name in old}
    pairs = {name: pair for name, pair in pairs.items() if name not in _NOT_COMPARED}
    pairs |= {
        "lr": (old_plan["lr"], plan.lr),
        "tokens": (token_count(old["tokens"], "--tokens"), token_count(options.tokens, "--tokens")),
        "eval_tokens": (old_plan["eval_tokens"], plan.eval_tokens),
        "seed": (old_setup["seed"], build.seed),
        "dtype": (old_setup["dtype"], build.dtype),
        "attn_implementation": (old_setup["attn_implementation"], build.attn_implementation),
    }
    for name, (began_with, now) in pairs.items():
        if began_with != now:
            problem = f"is {now}, but the run began with {began_with}"
            raise TrainingError(problem, option=f"--{name.replace('_', '-')}", hint=_SAME)
    if old_plan["bf16"] != plan.bf16:
        now, began_with = ("bf16" if bf16 else "no" for bf16 in (plan.bf16, old_plan["bf16"]))
        problem = f"auto means {now} on this device, but the run began with {began_with}"
        raise TrainingError(problem, option="--mixed-precision", hint="continue on the same kind of device")


def _check_model(latest: Path, resolved: ResolvedModel) -> None:
    """Check that the checkpoint was trained with the same options of the model."""
    before = read_object(latest / "config.json")
    for name, value in resolved.values.items():
        now = json.loads(json.dumps(value.value, default=str))
        if name in before and before[name] != now:
            problem = f"is {now}, but the run began with {before[name]}"
            raise TrainingError(problem, option=f"--{name.replace('_', '-')}", hint=_SAME)
