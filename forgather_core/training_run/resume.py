"""Find the checkpoint from which a training run continues, and check that the run may continue from it."""

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
from .optimizer_state import EARLIER, OPTIMIZER, has_named_state
from .plan import Plan, token_count
from .random_parts import POSITION
from .record import RECORD, read_record

# Options that do not change the steps (a run may continue with other values), or that are compared by their effect:
# the learning rate, the rows of a step and the numbers of tokens below, the dataset by the digests of its documents.
_NOT_COMPARED = {
    "resume", "log_every", "save_every", "save_total_limit", "report_to", "eval_every", "lr", "tokens", "eval_tokens",
    "dataset_project", "batch_size", "gradient_accumulation_steps",
}  # fmt: skip
_NEW_RUN = "choose another --output-dir for a new run"
_SAME = f"use the same value to continue the run, or {_NEW_RUN}"
_DAMAGED = "remove the directory of this file to continue from an earlier checkpoint"


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
        hint = f"{_NEW_RUN}; to train this model further, also add --load-from-checkpoint {directory}"
        raise TrainingError("contains a run that has ended", file=directory, hint=hint)
    if not options.resume:
        hint = f"add --resume to continue the run, remove this directory, or {_NEW_RUN}"
        raise TrainingError("contains the checkpoints of a run", file=directory / CHECKPOINTS, hint=hint)
    if not (latest / POSITION).exists():
        raise TrainingError("was not saved by forgather model train", file=latest, hint=_NEW_RUN)
    if not before:
        problem = f"has no {RECORD}, which contains the options of the run"
        raise TrainingError(problem, file=directory, hint=_NEW_RUN)
    _check_files(latest, before["plan"])
    _check_options(before, options, resolved, plan)
    _check_model(latest, resolved)
    return latest


def refuse_changed_data(directory: Path, held_out: HeldOut) -> None:
    """Check that the held-out documents are those with which the run began.

    Args:
        directory: The model directory, which has the record of the run.
        held_out: The documents that the run would continue with.

    Raises:
        DataError: The documents are different.
    """
    digest = read_record(directory).get("data", {}).get("held_out", {}).get("digest")
    if digest not in (None, held_out.digest):
        problem = "the data has changed since the run began: the held-out documents are different"
        raise DataError(problem, option="--dataset-project", hint=f"restore the data, or {_NEW_RUN}")


def read_position(checkpoint: Path) -> dict[str, Any]:
    """Return the position in the data that a checkpoint contains.

    Raises:
        TrainingError: The file of the position is damaged.
    """
    try:
        position = read_object(checkpoint / POSITION)
    except ValueError as error:
        raise TrainingError(f"is damaged: {error}", file=checkpoint / POSITION, hint=_DAMAGED) from None
    if missing := POSITION_KEYS - position.keys():
        problem = f"is damaged: it has no '{min(missing)}'"
        raise TrainingError(problem, file=checkpoint / POSITION, hint=_DAMAGED)
    return position


def _check_files(latest: Path, old_plan: Mapping[str, Any]) -> None:
    """Check that a checkpoint has all state files: the Trainer would silently reset a missing state."""
    count = read_position(latest).get("processes", old_plan["processes"])
    random = ["rng_state.pth"] if count == 1 else [f"rng_state_{i}.pth" for i in range(count)]
    state = f"{OPTIMIZER}/.metadata" if has_named_state(latest) else "optimizer.pt"
    for name in (state, "scheduler.pt", TRAINER_STATE_NAME, *random):
        if not (latest / name).is_file():
            raise TrainingError(f"has no {name}", file=latest, hint=EARLIER)


def _check_options(before: Mapping[str, Any], options: TrainOptions, resolved: ResolvedModel, plan: Plan) -> None:
    old, old_plan, old_setup = before["options"], before["plan"], before["setup"]
    if old_plan["rows"] != plan.rows:
        rows = old_plan["rows"]
        problem = f"a step has {plan.rows} rows, but the run began with {rows}"
        hint = f"processes x --batch-size x --gradient-accumulation-steps must be {rows}, or {_NEW_RUN}"
        raise TrainingError(problem, hint=hint)
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
        problem = f"auto resolves to {now} on this device, but the run began with {began_with}"
        hint = f"continue on the same type of device, or {_NEW_RUN}"
        raise TrainingError(problem, option="--mixed-precision", hint=hint)


def _check_model(latest: Path, resolved: ResolvedModel) -> None:
    """Check that the options of the model are those with which the checkpoint was trained."""
    before = read_object(latest / "config.json")
    for name, value in resolved.values.items():
        now = json.loads(json.dumps(value.value, default=str))
        if name in before and before[name] != now:
            problem = f"is {now}, but the run began with {before[name]}"
            raise TrainingError(problem, option=f"--{name.replace('_', '-')}", hint=_SAME)
