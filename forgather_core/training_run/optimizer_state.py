"""Save and load the state of an optimizer by the names of the parameters, so that a run continues on any other mesh.

torch.distributed.checkpoint writes it, each process its part, and reads what the parts of another mesh need.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from ..errors import CheckpointError, first_line
from ..parts.weight_pieces import is_sharded, local_part

_OF_DEVICE = frozenset({"foreach", "fused"})  # how torch updates parameters, which depends on the mesh
OPTIMIZER = "optimizer"  # the directory of the state in a checkpoint
EARLIER = "remove this directory to continue from an earlier checkpoint"


def has_named_state(checkpoint: Path) -> bool:
    """Return whether a checkpoint has the state of an optimizer by names; otherwise torch numbers the parameters."""
    return (checkpoint / OPTIMIZER).is_dir()


def save_optimizer(model: Any, optimizer: Any, checkpoint: Path) -> None:
    """Save the state of an optimizer. All processes must call this.

    Raises:
        CheckpointError: The state cannot be written.
    """
    state = get_optimizer_state_dict(model, _unwrapped(optimizer))
    try:
        save({"optimizer": state}, checkpoint_id=checkpoint / OPTIMIZER)
    except CheckpointException as error:
        cause = _cause(error)
        if isinstance(cause, OSError):
            raise cause from error
        raise CheckpointError(f"cannot be written: {first_line(cause)}", file=checkpoint) from error


def load_optimizer(model: Any, optimizer: Any, checkpoint: Path) -> None:
    """Load the state of an optimizer that was saved over any mesh, or by a single process.

    Args:
        model: The model, with the parameters of the optimizer.
        optimizer: A new optimizer.
        checkpoint: The checkpoint.

    Raises:
        CheckpointError: The state cannot be read, or belongs to other parameters.
    """
    optimizer = _unwrapped(optimizer)
    try:
        state = get_optimizer_state_dict(model, optimizer)
        if has_named_state(checkpoint):
            known = _load_named(state, checkpoint / OPTIMIZER)
        else:
            saved = torch.load(checkpoint / OPTIMIZER_NAME, map_location="cpu", weights_only=True, mmap=True)
            whole = _by_name(model, optimizer, saved)
            known = _known(state, whole["state"])
            _fill(known, whole)
        set_optimizer_state_dict(model, optimizer, state)
    except (CheckpointException, OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        problem = f"the state of the optimizer cannot be loaded: {first_line(_cause(error))}"
        raise CheckpointError(problem, file=checkpoint, hint=EARLIER) from error
    for name, parameter in model.named_parameters():
        if name not in known["state"]:  # torch has made a state for it, which an uninterrupted run would not have
            optimizer.state.pop(parameter, None)


def _load_named(state: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Load the part of a state that a directory of torch.distributed.checkpoint has, and return it."""
    paths = FileSystemReader(directory).read_metadata().planner_data or {}
    known = _known(state, {path[2] for path in paths.values() if path[:2] == ("optimizer", "state")})
    load({"optimizer": known}, checkpoint_id=directory, no_dist=not torch.distributed.is_initialized())
    return known


def _known(state: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the part of a state that belongs to the parameters of these names.

    A parameter has no state before its first gradient.

    Raises:
        ValueError: The state lacks one of them.
    """
    if unknown := sorted(set(names) - state["state"].keys()):
        raise ValueError(f"the model has no trainable parameter '{unknown[0]}'")
    return state | {"state": {name: values for name, values in state["state"].items() if name in names}}


def _cause(error: BaseException) -> BaseException:
    """Return the error of the first process that has one, which torch.distributed.checkpoint wraps."""
    if isinstance(error, CheckpointException):
        return next((wrapped for wrapped, _ in error.failures.values()), error)
    return error


def load_schedule(schedule: Any, checkpoint: Path) -> None:
    """Load the state of a learning rate schedule.

    Raises:
        CheckpointError: The state cannot be read.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            schedule.load_state_dict(torch.load(checkpoint / SCHEDULER_NAME, weights_only=True))
    except (RuntimeError, ValueError, KeyError, EOFError) as error:
        problem = f"the state of the schedule cannot be loaded: {first_line(error)}"
        raise CheckpointError(problem, file=checkpoint, hint=EARLIER) from error


def _fill(state: Any, whole: Mapping[str, Any]) -> None:
    """Fill the state of a process with its parts of a whole state.

    Raises:
        KeyError: The whole state lacks a value.
    """
    for name, values in state["state"].items():
        for key, value in values.items():
            saved = whole["state"][name][key]
            if is_sharded(value) and value.dim():
                local, box = local_part(value, name)
                local.copy_(saved[tuple(slice(at, at + size) for at, size in box)])
            elif isinstance(value, Tensor):
                value.copy_(saved)
            else:
                values[key] = saved
    for group, saved in zip(state["param_groups"], whole["param_groups"], strict=True):
        group |= {key: value for key, value in saved.items() if key in group and key not in {"params", *_OF_DEVICE}}


def _by_name(model: Any, optimizer: Any, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of an optimizer, which numbers the parameters, by their names."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ordered = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    groups = [{**group, "params": [ordered[index] for index in group["params"]]} for group in saved["param_groups"]]
    return {"state": {ordered[index]: state for index, state in saved["state"].items()}, "param_groups": groups}


def _unwrapped(optimizer: Any) -> Any:
    """Return the optimizer that accelerate has wrapped."""
    return getattr(optimizer, "optimizer", optimizer)
