"""What of a model goes into a checkpoint: every tensor of its state once, by the name that loaders expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...model.tensor_slots import groups_of, tensor_slots
from ...model.wrappers import Wrapped, adapters_note
from ..formats.stored import LiveTensor, StoredTensor


@dataclass(frozen=True)
class ModelState:
    """The tensors to be saved, and what a user must know of them, a sentence each."""

    tensors: Mapping[str, StoredTensor]
    notes: tuple[str, ...]


def model_state(wrapped: Wrapped, values: Mapping[str, Any]) -> ModelState:
    """The tensors of a model's state by name. Those that are the same numbers in memory are there once.

    transformers decides which of several names stands for a tied tensor. Of a tie that it does not know, every name is
    kept in a transformers model, whose loader would initialize the others, and the first name in any other model. Of a
    wrapped model it is the state of the model within.

    Args:
        wrapped: The model.
        values: Its `state()`.

    Raises:
        CheckpointError: A tensor has no values, or is of a kind that no checkpoint holds.
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
            notes.append(f"'{name}' is no tensor ({type(value).__name__}), and was not saved")
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
                    f"'{name}' is the same memory as '{names[0]}', of which transformers does not know: both saved"
                )
    for target, source in declared.items():
        if target in kept and source in kept:
            if wrapped.has_fsdp and torch.equal(state[target], state[source]):
                kept.discard(target)  # gathered apart
                continue
            notes.append(f"'{target}' is declared to be tied to '{source}', but holds other memory: both were saved")
    return ModelState({name: LiveTensor(state[name]) for name in state if name in kept}, tuple(notes))


def _names_within(wrapped: Wrapped, values: Mapping[str, Any]) -> list[str]:
    """The names of the model's own tensors with the components of all wrappers, each tensor once."""
    if wrapped.has_fsdp:  # its flat parameters hide them
        return [name for name in values if not wrapped.is_adapter(name)]
    found = {id(slot.tensor): slot.name for slot in tensor_slots(wrapped.root) if slot.persistent}
    return [name for name in found.values() if not wrapped.is_adapter(name)]


def _check(name: str, tensor: Tensor) -> None:
    if tensor.is_meta:
        raise CheckpointError(f"'{name}' is on the meta device and has no values to save: build the model on cpu")
    if hasattr(tensor, "full_tensor"):
        raise CheckpointError(
            f"'{name}' is spread over devices: gather the model first (get_model_state_dict of torch.distributed)"
        )
    if tensor.layout is not torch.strided or tensor.is_quantized or type(tensor) not in (Tensor, nn.Parameter):
        raise CheckpointError(f"'{name}' is a {type(tensor).__name__} of a kind that a checkpoint does not hold")
