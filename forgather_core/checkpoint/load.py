"""Load a checkpoint into a model: all that can be checked is checked before the first value is copied."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .copying import Copy, copy_all, non_finite
from .places import declared_partners, groups_of, materialise, put, slots, state_of, tie_targets
from .reader import Checkpoint, Progress
from .wording import dtype_of, listed, shape_of, shown, tensors


@dataclass(frozen=True)
class MissingTensor:
    """A tensor of the model that the checkpoint does not have, and what may explain it."""

    name: str
    hint: str | None = None


@dataclass(frozen=True)
class OtherShape:
    """A tensor that has one shape in the checkpoint and another in the model."""

    name: str
    stored: tuple[int, ...]
    model: tuple[int, ...]


@dataclass(frozen=True)
class LoadReport:
    """What was loaded. Buffers count as parameters do; names of one tensor are filled together.

    Args:
        path: The checkpoint.
        loaded: The names of the model that were filled.
        missing: Tensors of the model that are not in the checkpoint: they are as they were.
        unexpected: Tensors of the checkpoint for which the model has no place.
        other_shape: Tensors that were not loaded because of their shape.
        non_finite: Tensors that were loaded and hold NaN or an infinity. None: nobody has looked (`assign`).
        verified: Files whose SHA-256 was compared; None where that was not asked for.
        unverified: Files that were to be verified, and of which no SHA-256 is known.
    """

    path: Path
    loaded: tuple[str, ...]
    missing: tuple[MissingTensor, ...] = ()
    unexpected: tuple[str, ...] = ()
    other_shape: tuple[OtherShape, ...] = ()
    non_finite: tuple[str, ...] | None = ()
    verified: tuple[str, ...] | None = None
    unverified: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether model and checkpoint have the same tensors."""
        return not (self.missing or self.unexpected or self.other_shape)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "path": str(self.path),
            "loaded": len(self.loaded),
            "missing": [asdict(item) for item in self.missing],
            "unexpected": list(self.unexpected),
            "other_shape": [
                {"name": item.name, "stored": list(item.stored), "model": list(item.model)} for item in self.other_shape
            ],
            "non_finite": None if self.non_finite is None else list(self.non_finite),
            "verified": None if self.verified is None else list(self.verified),
            "unverified": list(self.unverified),
        }

    def problems(self) -> list[str]:
        """A sentence for each kind of thing that was not as it should be; empty where all is well."""
        missing, other = [item.name for item in self.missing], [item.name for item in self.other_shape]
        kinds = (
            (missing, f"of the model missing from {self.path}"),
            (self.unexpected, f"of {self.path} not in the model"),
            (other, f"of another shape in {self.path}"),
            (self.non_finite or (), f"loaded from {self.path} with NaN or Inf"),
        )
        found = [f"{tensors(len(names))} {what}: {listed(names)}" for names, what in kinds if names]
        if self.unverified:
            found.append(f"no checksum is recorded in {self.path} of {listed(self.unverified)}")
        return found


def load_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    device: torch.device | str | None = None,
    strict: bool = False,
    assign: bool = False,
    verify_checksums: bool = False,
    on_progress: Progress | None = None,
) -> LoadReport:
    """Load a checkpoint of Hugging Face's format, sharded or not, safetensors or `.bin`, into a model.

    Values are converted to the dtype that the model has. They are read a few megabytes at a time into their place, so
    that no second copy of the model is ever in memory.

    Args:
        path: A model directory, a weight file, an index, or a repository of the hub (`owner/name`).
        model: The model. On the meta device it is given memory first, which needs `device` or `assign`.
        device: Where the model is moved, once the checkpoint is known to fit; None leaves it where it is.
        strict: Raise where something is missing, unexpected, or of another shape; else warn.
        assign: Let the parameters be the pages of the files, where dtype and device allow it, rather than copy. They
            are private to the process: training changes no file.
        verify_checksums: Read all files first and compare their SHA-256, where the index has them.
        on_progress: Called with the bytes done and the bytes in all.

    Returns:
        What was loaded and what was not.

    Raises:
        CheckpointError: The checkpoint is damaged or does not fit. The model is as it was then, unless the disk failed
            half way.
    """
    with Checkpoint.open(path) as checkpoint:
        verified = checkpoint.verify(on_progress) if verify_checksums else None
        report = load_into(
            model, checkpoint, device=device, strict=strict, assign=assign, verified=verified, on_progress=on_progress
        )
    for problem in report.problems():
        warnings.warn(problem, stacklevel=2)
    return report


def load_into(
    model: nn.Module,
    checkpoint: Checkpoint,
    *,
    device: torch.device | str | None = None,
    strict: bool = False,
    assign: bool = False,
    verified: tuple[str, ...] | None = None,
    on_progress: Progress | None = None,
) -> LoadReport:
    """Load an open checkpoint; warns of nothing. The parameters are those of `load_checkpoint`."""
    state = state_of(model)
    plan = _plan(model, state, checkpoint)
    _refuse(plan, model, state, checkpoint, strict=strict)
    target = torch.device(device) if device is not None else torch.device("cpu") if assign else None
    _refuse_meta(model, plan, target)
    had_meta = any(slot.tensor.is_meta for slot in slots(model))
    if target is not None and not had_meta and device is not None:
        model.to(target)
    if assign:
        _assign(model, plan, checkpoint, target)
    if had_meta and target is not None:
        materialise(model, target)
    filled = state_of(model)
    if not assign:
        copy_all([Copy(checkpoint[source], filled[names[0]]) for names, source in plan.fills], on_progress)
    if had_meta:
        _complete(model, plan)
    if plan.untied and hasattr(model, "tie_weights"):
        model.tie_weights()  # type: ignore[operator]
    return LoadReport(
        checkpoint.path,
        loaded=tuple(name for names, _ in plan.fills for name in names),
        missing=tuple(MissingTensor(name, _hint(name, model, checkpoint)) for name in plan.missing),
        unexpected=tuple(plan.unexpected),
        other_shape=tuple(plan.other_shape),
        non_finite=None if assign else _non_finite(plan, checkpoint, filled),
        verified=verified,
        unverified=tuple(name for name in checkpoint.files if name not in verified) if verified is not None else (),
    )


@dataclass(frozen=True)
class _Plan:
    """What goes where: the names of each tensor of the model, with the name of the stored one that fills it."""

    fills: list[tuple[list[str], str]]
    missing: list[str]
    unexpected: list[str]
    other_shape: list[OtherShape]
    untied: bool  # something that transformers ties is two tensors here, of which the checkpoint has one


def _plan(model: nn.Module, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> _Plan:
    fills: list[tuple[list[str], str]] = []
    missing: list[str] = []
    other_shape: list[OtherShape] = []
    partners, untied = declared_partners(model), False
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
            # One tensor here, several there: if they are not equal, one of them is lost, and that is said.
            unexpected += [name for name in stored if name != fitting[0] and not _equal(checkpoint, name, fitting[0])]
    return _Plan(fills, [name for name in state if name in set(missing)], unexpected, other_shape, untied)


def _equal(checkpoint: Checkpoint, one: str, other: str) -> bool:
    a, b = checkpoint[one], checkpoint[other]
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.mapped(), b.mapped())


def _refuse(
    plan: _Plan, model: nn.Module, state: Mapping[str, Tensor], checkpoint: Checkpoint, *, strict: bool
) -> None:
    path = checkpoint.path
    if spread := [names[0] for names, _ in plan.fills if hasattr(state[names[0]], "full_tensor")]:
        raise CheckpointError(f"'{spread[0]}' of the model is spread over devices: load before it is sharded")
    wrong = [
        f"{source} ({dtype_of(checkpoint[source].dtype)} there, {dtype_of(state[names[0]].dtype)} here)"
        for names, source in plan.fills
        if not _converts(checkpoint[source].dtype, state[names[0]].dtype)
    ]
    if wrong:
        raise CheckpointError(f"{path} does not fit the model: {listed(wrong)}")
    shapes = [f"{x.name} ({shape_of(x.stored)} there, {shape_of(x.model)} here)" for x in plan.other_shape]
    if not plan.fills and shapes:
        raise CheckpointError(f"{path} does not fit the model: {listed(shapes)}")
    if not plan.fills and state:
        example = f"it has '{shown(next(iter(checkpoint)))}'" if len(checkpoint) else "it is empty"
        raise CheckpointError(
            f"{path} has no tensor that {type(model).__name__} has ({example}): it is of another model"
        )
    if strict:
        problems = LoadReport(path, (), tuple(map(MissingTensor, plan.missing)), tuple(plan.unexpected)).problems()
        problems += [f"of another shape: {listed(shapes)}"] if shapes else []
        if problems:
            raise CheckpointError("; ".join(problems) + ": nothing was loaded")


def _converts(stored: torch.dtype, model: torch.dtype) -> bool:
    """Whether values of one dtype mean the same in another: floats round, integers must keep their value."""
    if stored == model:
        return True
    if stored.is_floating_point or model.is_floating_point or stored.is_complex or model.is_complex:
        return (stored.is_floating_point and model.is_floating_point) or (stored.is_complex and model.is_complex)
    if torch.bool in (stored, model):
        return False
    inner, outer = torch.iinfo(stored), torch.iinfo(model)
    return outer.min <= inner.min and inner.max <= outer.max


def _refuse_meta(model: nn.Module, plan: _Plan, target: torch.device | None) -> None:
    """Before anything is changed: whatever is on meta must come from the checkpoint, or be computable."""
    meta = [slot for slot in slots(model) if slot.tensor.is_meta]
    if not meta:
        return
    if target is None or target.type == "meta":
        raise CheckpointError(f"'{meta[0].name}' of the model is on the meta device: name a real device to load to")
    if hasattr(model, "initialize_weights"):
        return  # transformers fills what no checkpoint has
    filled = {name for names, _ in plan.fills for name in names}
    for slot in meta:
        if slot.name not in filled and not hasattr(slot.module, "reset_buffers"):
            what = "missing from the checkpoint" if slot.persistent else "computed, so that no checkpoint has it"
            raise CheckpointError(f"'{slot.name}' is on the meta device and {what}: build the model on cpu")


def _assign(model: nn.Module, plan: _Plan, checkpoint: Checkpoint, target: torch.device | None) -> None:
    state = state_of(model)
    sources = {id(state[name]): source for names, source in plan.fills for name in names}
    mapped: dict[str, Tensor] = {}

    def make(old: Tensor) -> Tensor | None:
        source = sources.get(id(old))
        if source is None:
            return None
        if source not in mapped:
            mapped[source] = checkpoint[source].mapped()
        device = target if old.is_meta and target is not None else old.device
        return mapped[source].to(device=device, dtype=old.dtype)

    put(model, make)


def _complete(model: nn.Module, plan: _Plan) -> None:
    """What was on meta and no checkpoint fills: initial weights, computed buffers, ties."""
    if hasattr(model, "initialize_weights"):
        _initialise_rest(model, plan)
    for slot in slots(model):
        if not slot.persistent and hasattr(slot.module, "reset_buffers"):
            slot.module.reset_buffers()  # type: ignore[operator]
    if left := [slot.name for slot in slots(model) if slot.tensor.is_meta]:
        raise CheckpointError(f"'{left[0]}' of the model is still on the meta device: build the model on cpu")


def _initialise_rest(model: Any, plan: _Plan) -> None:
    """What transformers does after a load of its own: what is marked as filled stays, the rest gets initial weights."""
    from transformers.initialization import guard_torch_init_functions

    state = state_of(model)
    filled = [state[name] for names, _ in plan.fills for name in names]
    for tensor in filled:
        tensor._is_hf_initialized = True  # type: ignore[attr-defined]
    for module in model.modules():
        module._is_hf_initialized = False
    with torch.no_grad(), guard_torch_init_functions():
        model.initialize_weights()
    for tensor in filled:
        vars(tensor).pop("_is_hf_initialized", None)


def _non_finite(plan: _Plan, checkpoint: Checkpoint, filled: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Those with NaN or Inf: as recorded when they were written, else by looking."""
    record, found = checkpoint.non_finite, []
    for names, source in plan.fills:
        target = filled[names[0]]
        recorded = record is not None and target.dtype == checkpoint[source].dtype
        if (record is not None and source in record) if recorded else non_finite(target):
            found.append(names[0])
    return tuple(found)


def _hint(name: str, model: nn.Module, checkpoint: Checkpoint) -> str | None:
    if name in tie_targets(model):
        return "a tied model saves it once: tie this one too with --tie-word-embeddings"
    near = get_close_matches(name, checkpoint, n=1, cutoff=0.8)
    return f"the checkpoint has {shown(near[0])}" if near else None
