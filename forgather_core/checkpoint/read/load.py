"""Load a checkpoint into a model. All checks that do not read values come before the first value is copied."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...model.tensor_slots import TensorSlot, materialize, replace_tensors, state_of, tensor_slots
from ...model.wrappers import Wrapped
from ...parts.table_init import mark_filled
from ...parts.weight_pieces import is_sharded, local_part
from ..formats.fp8 import ScaledTensor
from ..formats.part import PartTensor
from ..formats.stored import FileTensor, StoredTensor
from ..report import LoadReport
from .contents import Contents, contents_for
from .copying import Copy, copy_all
from .plan import Plan, few_matched, make_plan, refuse
from .reader import ByteProgress, Checkpoint

_ON_CPU = "build the model on cpu"


def load_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    device: torch.device | str | None = None,
    strict: bool = False,
    ignore_mismatched_sizes: bool = False,
    assign: bool = False,
    verify_checksums: bool = False,
    on_progress: ByteProgress | None = None,
) -> LoadReport:
    """Load a checkpoint into a model: safetensors or `.bin`, sharded or not, or of torch.distributed.checkpoint.

    Values are read into the model's tensors and converted to their dtype in blocks, so that memory never holds a second
    copy of the model. FP8 weights with scales are dequantized. Names may have the prefixes of wrappers
    (`module.`, `_orig_mod.`, ...), and the prefix of the base model may be missing or extra. The model may be wrapped
    (torch.compile, data parallelism, FSDP1, activation checkpointing, PEFT, in any nesting); the report lists the names
    of the wrapped model. PEFT adapters are unchanged unless the checkpoint contains them too. With FSDP1 every process
    must call this function, and each reads the checkpoint. If weights are sharded over a device mesh (FSDP2, tensor
    parallelism), each process reads its part, and reports NaN and Inf in it. Errors are not shared between processes.

    Args:
        path: A model directory, a weight file, an index, or a Hub repository (`owner/name`).
        model: The model. A model on the meta device is allocated first, which requires `device` or `assign`.
        device: Device to move the model to after the checkpoint has been checked; None does not move it.
        strict: Raise if a tensor is missing or unexpected; otherwise warn.
        ignore_mismatched_sizes: Leave tensors of a different shape unchanged; otherwise they are an error.
        assign: Use memory-mapped pages of the files as parameters instead of copying, if dtype and device allow it. The
            pages are private to the process: training does not change the files.
        verify_checksums: Verify the recorded checksums of the files before loading.
        on_progress: Called with the bytes done and the total bytes.

    Returns:
        A report of the tensors that were loaded, and of those that are missing, unexpected or of a different shape.

    Raises:
        CheckpointError: The checkpoint is damaged or does not fit. The model is unchanged, unless a read fails while
            values are copied.
    """
    with Checkpoint.open(path) as checkpoint:
        verified = checkpoint.verify(on_progress) if verify_checksums else None
        report = load_into(
            model,
            checkpoint,
            device=device,
            strict=strict,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            assign=assign,
            verified=verified,
            on_progress=on_progress,
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
    ignore_mismatched_sizes: bool = False,
    assign: bool = False,
    verified: tuple[str, ...] | None = None,
    on_progress: ByteProgress | None = None,
) -> LoadReport:
    """Load an open checkpoint, without warnings. `verified` is the result of `Checkpoint.verify`.

    The other arguments are those of `load_checkpoint`.
    """
    wrapped = Wrapped.of(model)
    wrapped.refuse_merged()
    if wrapped.has_fsdp and (assign or device is not None):
        problem = "assign and device are not supported with FSDP, which owns the memory of its parameters"
        raise CheckpointError(problem, hint="load without them")
    adapters = wrapped.adapters()
    with wrapped.full_parameters():
        root, model = wrapped.root, wrapped.base
        state = state_of(wrapped)
        _refuse_sharded(state, assign=assign, device=device)
        contents = contents_for(model, state, checkpoint)
        if adapters:  # a checkpoint of the adapted model has none
            state = {name: tensor for name, tensor in state.items() if name not in adapters or name in contents}
        plan = make_plan(model, state, contents)
        refuse(plan, model, state, contents, strict=strict, ignore_mismatched_sizes=ignore_mismatched_sizes)
        warning = few_matched(plan, state, checkpoint.path)
        target = torch.device(device) if device is not None else torch.device("cpu") if assign else None
        meta = [slot for slot in tensor_slots(root) if slot.tensor.is_meta]
        _refuse_meta(wrapped, meta, plan, target)
        if device is not None and not meta:
            root.to(device)
            state = state_of(wrapped)
        if assign:
            _assign(root, state, plan, contents, target)
        if meta and target is not None:
            materialize(root, target)
            state = state_of(wrapped)
        non_finite: tuple[str, ...] | None = None
        if not assign:
            state = _expand_repeated(wrapped, state, plan)
            non_finite = _copy(state, plan, contents, on_progress)
        if meta:
            _complete(wrapped, plan)
        if hasattr(model, "initialize_weights"):
            mark_filled(model, plan.filled if wrapped.is_plain else wrapped.names_within(plan.filled))
        if plan.untied and hasattr(model, "tie_weights"):
            model.tie_weights()  # type: ignore[operator]
        return LoadReport(
            checkpoint.path,
            loaded=plan.filled,
            missing=tuple(plan.missing),
            unexpected=tuple(plan.unexpected),
            other_shape=tuple(plan.other_shape),
            non_finite=non_finite,
            verified=verified,
            unverified=tuple(name for name in checkpoint.files if name not in verified) if verified is not None else (),
            unused=contents.unused,
            notes=(*_prefixes(wrapped, plan), *contents.notes),
            warnings=(*contents.warnings, *([warning] if warning is not None else [])),
            tensors=len(plan.fills),
        )


def _refuse_sharded(state: Mapping[str, Tensor], *, assign: bool, device: torch.device | str | None) -> None:
    """Check the options of a load into weights that are sharded over processes.

    Raises:
        CheckpointError: They do not support an option.
    """
    for name, tensor in state.items():
        if not is_sharded(tensor):
            continue
        if assign:
            problem = "assign is not supported for weights that are sharded over processes"
            raise CheckpointError(problem, hint="load without it")
        kind: str = tensor.device_mesh.device_type  # type: ignore[attr-defined]
        if device is not None and torch.device(device).type != kind:
            problem = f"'{name}' of the model is sharded over {kind}, and device is '{device}'"
            raise CheckpointError(problem, hint=f"load with device='{kind}'")


def _prefixes(wrapped: Wrapped, plan: Plan) -> tuple[str, ...]:
    """Return notes on the prefixes that wrappers add to the names of the model."""
    if wrapped.is_plain:
        return ()
    filled = {names[0] for names, _ in plan.fills}
    names = [slot.name for slot in tensor_slots(wrapped.root) if wrapped.clean(slot.name) in filled]
    return wrapped.notes(names, "names of {0} matched with '{1}.' of the model")


def _refuse_meta(wrapped: Wrapped, meta: list[TensorSlot], plan: Plan, target: torch.device | None) -> None:
    """Check that every tensor on meta comes from the checkpoint or can be computed, before anything is changed.

    Raises:
        CheckpointError: A tensor on meta would keep no values.
    """
    if not meta:
        return
    if target is None or target.type == "meta":
        hint = "pass a real device, for example device='cpu'"
        raise CheckpointError(f"'{meta[0].name}' of the model is on the meta device", hint=hint)
    if hasattr(wrapped.base, "initialize_weights"):
        return  # transformers initializes the tensors that the checkpoint does not have
    filled = set(plan.filled)
    for slot in meta:
        if wrapped.clean(slot.name) not in filled and not hasattr(slot.module, "reset_buffers"):
            reason = "missing from the checkpoint" if slot.persistent else "computed, so no checkpoint contains it"
            raise CheckpointError(f"'{slot.name}' is on the meta device and {reason}", hint=_ON_CPU)


def _expand_repeated(wrapped: Wrapped, state: dict[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """Allocate buffers that repeat elements by a stride of 0, so that every element can be written."""
    repeated = {id(state[n]) for n in plan.filled if any(k > 1 and not s for k, s in _layout(state[n]))}
    if not repeated:
        return state
    replace_tensors(
        wrapped.root,
        lambda old: torch.empty(old.shape, dtype=old.dtype, device=old.device) if id(old) in repeated else None,
    )
    return state_of(wrapped)


def _layout(tensor: Tensor) -> zip[tuple[int, int]]:
    return zip(tensor.shape, tensor.stride(), strict=True)


def _assign(
    model: nn.Module, state: Mapping[str, Tensor], plan: Plan, contents: Contents, target: torch.device | None
) -> None:
    on_meta: dict[int, Tensor] = {}
    for names, source in plan.fills:
        values = _values(contents[source], state[names[0]].dtype)
        for old in (state[name] for name in names):
            if old.is_meta:
                on_meta[id(old)] = values.to(device=target, dtype=old.dtype)
            else:
                old.data = values.to(device=old.device, dtype=old.dtype)  # the same object, which an optimizer may hold
    if on_meta:
        replace_tensors(model, lambda old: on_meta.get(id(old)))


def _values(source: StoredTensor, dtype: torch.dtype) -> Tensor:
    """Return the values of a stored tensor: memory-mapped if possible, else computed block by block in `dtype`."""
    if isinstance(source, FileTensor) or not source.streams:
        return source.mapped()
    values = torch.empty(source.shape, dtype=dtype)
    copy_all([Copy("", source, values)])
    return values


def _complete(wrapped: Wrapped, plan: Plan) -> None:
    """Initialize or compute the tensors that were on meta and are not in the checkpoint."""
    model = wrapped.root
    if hasattr(wrapped.base, "initialize_weights"):
        _initialize_missing(wrapped, plan)
    for slot in tensor_slots(model):
        if not slot.persistent and hasattr(slot.module, "reset_buffers"):
            slot.module.reset_buffers()  # type: ignore[operator]
    if left := [slot.name for slot in tensor_slots(model) if slot.tensor.is_meta]:
        raise CheckpointError(f"'{left[0]}' of the model is still on the meta device", hint=_ON_CPU)


def _initialize_missing(wrapped: Wrapped, plan: Plan) -> None:
    """Initialize the tensors that the checkpoint does not fill, as transformers does after a load."""
    from transformers.initialization import guard_torch_init_functions

    model: Any = wrapped.base
    state = state_of(wrapped)
    filled = [state[name] for name in plan.filled]
    for tensor in filled:
        tensor._is_hf_initialized = True  # type: ignore[attr-defined]
    for module in model.modules():
        module._is_hf_initialized = False
    with torch.no_grad(), guard_torch_init_functions():
        model.initialize_weights()
    for tensor in filled:
        vars(tensor).pop("_is_hf_initialized", None)


def _copy(
    state: Mapping[str, Tensor], plan: Plan, contents: Contents, on_progress: ByteProgress | None
) -> tuple[str, ...]:
    """Fill the model, and return the names of the tensors with NaN or Inf. Uses the sealed record if there is one."""
    known, copies, found = contents.non_finite, [], set()
    for names, source in plan.fills:
        stored, target = contents[source], state[names[0]]
        is_known = known is not None and stored.dtype == target.dtype and not isinstance(stored, ScaledTensor)
        if is_sharded(target):
            target, box = local_part(target, names[0])
            if not target.numel():
                continue  # this process has no part of it
            is_part = target.shape != stored.shape
            stored = PartTensor(stored, box) if is_part else stored
            is_known = is_known and not (is_part and source in (known or ()))  # the record is that of the whole tensor
        if is_known and source in (known or ()):
            found.add(names[0])
        copies.append(Copy(names[0], stored, target, check_finite=not is_known and stored.dtype.is_floating_point))
    found |= copy_all(copies, on_progress)
    return tuple(copy.name for copy in copies if copy.name in found)
