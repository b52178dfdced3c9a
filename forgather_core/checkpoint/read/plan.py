"""Plan which tensor of a checkpoint fills which tensor of a model, and refuse a checkpoint that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...filesystem.printable import dtype_of, printable_name, shape_of, tensors, truncated_list
from ...model.tensor_slots import declared_ties, groups_of, tie_targets
from ...parts.weight_pieces import is_sharded, local_part
from ..report import MissingTensor, OtherShape, counted_names
from .contents import Contents, equal_bits
from .names import mismatch_hint

_IGNORE = "to load the others, use --ignore-mismatched-sizes (ignore_mismatched_sizes=True)"
_BUILD = "build the model with the options of the checkpoint"
_NOT_STRICT = "load without strict=True to fill the matching tensors"
_COMPARISONS = 20_000  # comparisons of two names; this many take about a second


class UnmatchedTensorsError(CheckpointError):
    """A checkpoint that does not have exactly the tensors of the model, loaded with `strict`."""


@dataclass(frozen=True)
class Plan:
    """An assignment of stored tensors to the tensors of a model.

    Args:
        fills: For each tensor of the model, its names and the name of the stored tensor that fills it.
        missing: Tensors of the model that the checkpoint does not have.
        unexpected: Tensors of the checkpoint that the model does not have.
        other_shape: Tensors whose shapes differ.
        untied: Whether the model has two separate tensors that transformers ties, and the checkpoint has only one.
    """

    fills: list[tuple[list[str], str]]
    missing: list[MissingTensor]
    unexpected: list[str]
    other_shape: list[OtherShape]
    untied: bool

    @property
    def filled(self) -> tuple[str, ...]:
        """The filled names in the model."""
        return tuple(name for names, _ in self.fills for name in names)


def make_plan(model: nn.Module, state: Mapping[str, Tensor], checkpoint: Contents) -> Plan:
    """Plan a load. Values are read only to compare stored tensors that fill the same tensor of the model."""
    fills: list[tuple[list[str], str]] = []
    missing: list[str] = []
    other_shape: list[OtherShape] = []
    partners, untied = declared_ties(model), False

    def differs(one: str, other: str) -> bool:
        return not equal_bits(checkpoint[one], checkpoint[other])

    unexpected = [name for name in checkpoint if name not in state]
    for names in groups_of(model, state):
        stored = [name for name in names if name in checkpoint]
        if not stored:
            stored = [partner for name in names for partner in partners.get(name, ()) if partner in checkpoint]
            untied |= bool(stored)
        shape = tuple(state[names[0]].shape)
        fitting = [name for name in stored if checkpoint[name].shape == shape]
        if not stored:
            missing += names
        elif not fitting:
            other_shape += [OtherShape(name, checkpoint[name].shape, shape) for name in stored]
        else:
            fills.append((names, fitting[0]))
            # If several stored tensors fill this tensor and differ, all but the first are lost, and are reported.
            unexpected += [name for name in stored if name != fitting[0] and differs(name, fitting[0])]
    return Plan(fills, _with_hints(missing, model, state, checkpoint, unexpected), unexpected, other_shape, untied)


def refuse(
    plan: Plan,
    model: nn.Module,
    state: Mapping[str, Tensor],
    checkpoint: Contents,
    *,
    strict: bool,
    ignore_mismatched_sizes: bool = False,
) -> None:
    """Check that the checkpoint fits the model, before anything is changed.

    Raises:
        CheckpointError: No tensor matches, a dtype cannot be converted, a shape differs (unless
            `ignore_mismatched_sizes`), or, if `strict`, a tensor is missing or unexpected.
    """
    path = checkpoint.path
    for _, source in plan.fills:
        checkpoint[source].check()
    for filled, _ in plan.fills:
        if is_sharded(state[filled[0]]):
            _refuse_placement(filled[0], state[filled[0]], path)
    wrong = [
        f"{source} (expected {dtype_of(state[names[0]].dtype)}, got {dtype_of(checkpoint[source].dtype)})"
        for names, source in plan.fills
        if not _converts(checkpoint[source].dtype, state[names[0]].dtype)
    ]
    if wrong:
        problem = f"has dtypes that the model cannot hold: {truncated_list(wrong)}"
        hint = "load a checkpoint of this model, or build the model with dtypes that can represent the values"
        raise CheckpointError(f"{problem}; nothing was loaded", file=path, hint=hint)
    if plan.other_shape and (strict or not ignore_mismatched_sizes or not plan.fills):
        shapes = truncated_list([_difference(item) for item in plan.other_shape])
        problem = f"does not fit the model: {tensors(len(plan.other_shape))} with a different shape: {shapes}"
        hint = _BUILD if strict or not plan.fills else _IGNORE
        raise CheckpointError(f"{problem}; nothing was loaded", file=path, hint=hint)
    if not plan.fills and state:
        example = f"it has '{printable_name(next(iter(checkpoint)))}'" if len(checkpoint) else "it is empty"
        names = f"{example}, the model has '{printable_name(next(iter(state)))}'"
        problem = f"has no tensor in common with {type(model).__name__} ({names})"
        raise CheckpointError(problem, file=path, hint=_advice(plan, state))
    if strict:
        missing = [item.name for item in plan.missing]
        kinds = ((missing, "missing from the checkpoint"), (plan.unexpected, "not in the model"))
        if problems := [counted_names(names, predicate) for names, predicate in kinds if names]:
            problem = f"does not fit the model: {'; '.join(problems)}; nothing was loaded"
            raise UnmatchedTensorsError(problem, file=path, hint=_NOT_STRICT)


def _refuse_placement(name: str, tensor: Tensor, path: Path) -> None:
    """Check that the part of a sharded tensor that this process has is a box of the whole tensor.

    Raises:
        CheckpointError: It is sharded in another way.
    """
    try:
        local_part(tensor, name)
    except ValueError as error:
        problem, _, hint = str(error).partition("; ")
        raise CheckpointError(f"cannot be loaded: {problem}; nothing was loaded", file=path, hint=hint) from None


def few_matched(plan: Plan, state: Mapping[str, Tensor], path: object) -> str | None:
    """Return a warning if less than half of the model's tensors were filled, else None."""
    count = len(plan.filled)
    if 2 * count >= len(state) or not plan.missing or not plan.unexpected:
        return None
    return f"only {count} of the model's {tensors(len(state))} were filled from {path}: {_advice(plan, state)}"


def _advice(plan: Plan, state: Mapping[str, Tensor]) -> str:
    """Return a hint for names that do not match."""
    hint = mismatch_hint(plan.unexpected, state.keys())
    return hint if hint is not None else "load a checkpoint of this model, or rename the tensors"


def _difference(item: OtherShape) -> str:
    transposed = len(item.stored) > 1 and item.stored == item.model[::-1]
    suffix = ", transposed" if transposed else ""
    return f"{item.name} (expected {shape_of(item.model)}, got {shape_of(item.stored)}{suffix})"


def _converts(stored: torch.dtype, model: torch.dtype) -> bool:
    """Return whether a dtype can be converted: floats may be rounded, integers must fit the range."""
    if stored == model:
        return True
    if stored.is_floating_point or model.is_floating_point or stored.is_complex or model.is_complex:
        return (stored.is_floating_point and model.is_floating_point) or (stored.is_complex and model.is_complex)
    if torch.bool in (stored, model):
        return False
    inner, outer = torch.iinfo(stored), torch.iinfo(model)
    return outer.min <= inner.min and inner.max <= outer.max


def _with_hints(
    missing: list[str], model: nn.Module, state: Mapping[str, Tensor], checkpoint: Contents, unexpected: list[str]
) -> list[MissingTensor]:
    """Return the missing tensors with hints: tie the model, or a similar unexpected name, preferably of equal shape."""
    targets, left = tie_targets(model), _COMPARISONS
    found, absent = [], set(missing)
    for name in [name for name in state if name in absent]:
        hint = None
        if name in targets:
            hint = "tied models store it once: tie this model too with --tie-word-embeddings"
        elif unexpected and left > 0:
            alike = [other for other in unexpected if checkpoint[other].shape == state[name].shape]
            for candidates in (alike, unexpected):
                left -= len(candidates)
                near = get_close_matches(name, candidates, n=1, cutoff=0.7) if left > 0 else []
                if near:
                    hint = f"the checkpoint has {printable_name(near[0])}"
                    break
        found.append(MissingTensor(name, hint))
    return found
