"""The tensors of a model to save: each once, under the name that loaders expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...model.tensor_slots import groups_of, tensor_slots
from ...model.wrappers import Wrapped, adapters_note
from ...parts.weight_pieces import is_sharded, local_part
from ..formats.stored import LiveTensor, StoredTensor


@dataclass(frozen=True)
class ModelState:
    """The tensors to save, and notes for the user, one sentence each."""

    tensors: Mapping[str, StoredTensor]
    notes: tuple[str, ...]


def model_state(wrapped: Wrapped, values: Mapping[str, Any]) -> ModelState:
    """Return the tensors of a model's state by name. Tensors that share all of their memory are included once.

    transformers decides which of several names represents a tied tensor. For a tie that transformers does not know,
    every name is kept in a transformers model, because its loader would initialize the others; in any other model the
    first name is kept. For a wrapped model, the state is that of the innermost model.

    Args:
        wrapped: The model.
        values: Its `state()`.

    Raises:
        CheckpointError: A tensor has no values, or is of an unsupported kind.
    """
    model, state, notes, adapters = wrapped.base, {}, [], []
    ignored = getattr(model, "_keys_to_ignore_on_save", None) or ()
    for key, value in values.items():
        if wrapped.is_adapter(key):
            adapters.append(key)
            continue
        name = wrapped.clean(key)
        if name in ignored:
            continue
        if not isinstance(value, Tensor):
            notes.append(f"'{name}' is not a tensor ({type(value).__name__}) and was not saved")
            continue
        _check(name, value)
        state[name] = value
    if not wrapped.is_plain:
        notes += wrapped.notes(_names_within(wrapped, values), "names of {0} saved without '{1}.'")
    if adapters:
        notes.append(adapters_note(adapters))
    declared: Mapping[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    is_transformers = hasattr(model, "all_tied_weights_keys")
    kept: set[str] = set()
    for names in groups_of(model, state):
        kept.add(names[0])
        for name in names[1:]:
            if is_transformers and name not in declared:
                kept.add(name)
                notes.append(
                    f"'{name}' shares memory with '{names[0]}', which transformers does not declare as tied: both were "
                    f"saved"
                )
    for target, source in declared.items():
        if target in kept and source in kept:
            if wrapped.has_fsdp and torch.equal(state[target], state[source]):
                kept.discard(target)  # gathered separately
                continue
            notes.append(f"'{target}' is declared as tied to '{source}' but does not share its memory: both were saved")
    return ModelState({name: LiveTensor(state[name]) for name in state if name in kept}, tuple(notes))


def _names_within(wrapped: Wrapped, values: Mapping[str, Any]) -> list[str]:
    """Return the names of the model's own tensors with the components of all wrappers, each tensor once."""
    if wrapped.has_fsdp:  # its flat parameters hide the tensors
        return [name for name in values if not wrapped.is_adapter(name)]
    found = {id(slot.tensor): slot.name for slot in tensor_slots(wrapped.root) if slot.persistent}
    return [name for name in found.values() if not wrapped.is_adapter(name)]


def _check(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        problem = f"'{name}' is on the meta device and has no values to save"
        raise CheckpointError(problem, hint="build the model on cpu")
    if is_sharded(tensor):
        try:
            local_part(tensor, name)
        except ValueError as error:
            raise CheckpointError(str(error)) from None
        return
    if tensor.layout is not torch.strided or tensor.is_quantized or type(tensor) not in (Tensor, nn.Parameter):
        problem = (
            f"'{name}' is a sparse, quantized or subclassed tensor ({type(tensor).__name__}), which is not supported"
        )
        raise CheckpointError(problem, hint="convert it to a dense tensor")
