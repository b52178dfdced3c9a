"""Save and load the state of an optimizer by the names of the parameters, so that a run continues on any other mesh.

torch.distributed.checkpoint writes it, each process its part, and reads what the parts of another mesh need.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
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
_SAME_NAMES = "its parameters are not those of the model"
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

    A parameter without a state in the checkpoint has none afterwards: it had received no gradient yet.

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
            _read(state, checkpoint / OPTIMIZER)
        else:
            saved = torch.load(checkpoint / OPTIMIZER_NAME, map_location="cpu", weights_only=True, mmap=True)
            _fill(state, _by_name(model, optimizer, saved))
        set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(strict=False))
    except (CheckpointException, OSError, RuntimeError, ValueError, LookupError, EOFError, UnpicklingError) as error:
        cause = _cause(error)
        reason = "a file of it is truncated" if isinstance(cause, EOFError) else first_line(cause)
        problem = f"the state of the optimizer cannot be loaded: {reason}"
        raise CheckpointError(problem, file=checkpoint, hint=EARLIER) from error


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


def _cause(error: BaseException) -> BaseException:
    """Return the error of a process from torch's error, whose own message lists ranks: an OSError if there is one."""
    if not isinstance(error, CheckpointException):
        return error
    causes = [cause for cause, _ in error.failures.values()]
    return next((cause for cause in causes if isinstance(cause, OSError)), causes[0])


def _read(state: Any, directory: Path) -> None:
    """Fill the state of a process with its parts from a directory of torch.distributed.checkpoint.

    Raises:
        ValueError: The state is that of other parameters.
    """
    paths = (FileSystemReader(directory).read_metadata().planner_data or {}).values()
    _keep_saved(state, {path[2] for path in paths if path[:2] == ("optimizer", "state")})
    expected = _group_names(state)
    with warnings.catch_warnings(action="ignore"):  # torch warns of a single process
        load({"optimizer": state}, checkpoint_id=directory, no_dist=not torch.distributed.is_initialized())
    if _group_names(state) != expected:
        raise ValueError(_SAME_NAMES)


def _keep_saved(state: Any, saved: Collection[str]) -> None:
    """Remove the state of all parameters but those of these names.

    Raises:
        ValueError: There is no state for one of the names.
    """
    if not state["state"].keys() >= set(saved):
        raise ValueError(_SAME_NAMES)
    state["state"] = {name: values for name, values in state["state"].items() if name in saved}


def _group_names(state: Mapping[str, Any]) -> list[list[str]]:
    """Return the names of the parameters of each group, sorted."""
    return [sorted(group["params"]) for group in state["param_groups"]]


def _fill(state: Any, whole: Mapping[str, Any]) -> None:
    """Fill the state of a process with its parts of a whole state.

    Raises:
        KeyError: The whole state lacks a value of a parameter.
        ValueError: The state is that of other parameters.
    """
    _keep_saved(state, whole["state"].keys())
    if _group_names(state) != _group_names(whole):
        raise ValueError(_SAME_NAMES)
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
    """Return the state of an optimizer, which numbers the parameters, by their names.

    Raises:
        ValueError: It is the state of another number of parameters.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ordered = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    if sum(len(group["params"]) for group in saved["param_groups"]) != len(ordered):
        raise ValueError(_SAME_NAMES)
    groups = [{**group, "params": [ordered[index] for index in group["params"]]} for group in saved["param_groups"]]
    return {"state": {ordered[index]: state for index, state in saved["state"].items()}, "param_groups": groups}


def _unwrapped(optimizer: Any) -> Any:
    """Return the optimizer that accelerate has wrapped."""
    return getattr(optimizer, "optimizer", optimizer)
