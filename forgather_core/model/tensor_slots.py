"""The tensor slots of a model: list them, find tied names, and replace tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..parts.weight_pieces import is_sharded
from .wrappers import Wrapped


@dataclass(frozen=True)
class TensorSlot:
    """A module attribute that holds a tensor.

    Args:
        name: Full name in the model, with the components of wrappers.
        module: The module.
        leaf: Name of the attribute.
        tensor: The parameter or buffer.
        persistent: Whether the state dict contains it.
    """

    name: str
    module: nn.Module
    leaf: str
    tensor: Tensor
    persistent: bool

    @property
    def is_buffer(self) -> bool:
        """Return whether it is a buffer rather than a parameter."""
        return self.leaf in self.module._buffers


def tensor_slots(model: nn.Module) -> Iterator[TensorSlot]:
    """Yield every parameter and buffer under all of its names, with the components of wrappers."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                yield TensorSlot(dot + leaf, module, leaf, parameter, True)
        for leaf, buffer in module._buffers.items():
            if buffer is not None:
                yield TensorSlot(dot + leaf, module, leaf, buffer, leaf not in module._non_persistent_buffers_set)


def state_of(wrapped: Wrapped) -> dict[str, Tensor]:
    """Return parameters and persistent buffers, not detached, by their names in the innermost model."""
    if wrapped.has_fsdp:  # its hooks allow no state_dict() within full_parameters()
        state = {slot.name: slot.tensor for slot in tensor_slots(wrapped.root) if slot.persistent}
    else:
        state = wrapped.root.state_dict(keep_vars=True)
    return {wrapped.clean(name): t for name, t in state.items() if isinstance(t, Tensor)}


def identity(tensor: Tensor) -> Any:
    """Return a key that is equal for tensors that share all of their memory."""
    if tensor.is_meta or tensor.numel() == 0:
        return id(tensor)
    if is_sharded(tensor):  # it has no memory of its own
        local: Tensor = tensor.detach().to_local()  # type: ignore[attr-defined]
        return (identity(local), tensor.shape) if local.numel() else id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def tie_targets(model: nn.Module) -> set[str]:
    """Return the names that transformers declares as second names of tied tensors. A checkpoint omits them."""
    found: set[str] = set()
    for attribute in ("all_tied_weights_keys", "_tied_weights_keys"):
        found |= set(getattr(model, attribute, None) or ())
    return found


def declared_ties(model: nn.Module) -> dict[str, list[str]]:
    """Return the names that transformers ties to each other in this model, whether or not they are tied already."""
    partners: dict[str, list[str]] = {}
    ties = getattr(model, "all_tied_weights_keys", None)
    for target, source in ties.items() if isinstance(ties, Mapping) else ():
        partners.setdefault(target, []).append(source)
        partners.setdefault(source, []).append(target)
    return partners


def groups_of(model: nn.Module, state: Mapping[str, Tensor]) -> list[list[str]]:
    """Group the names of a state by tensor; the source of a tie that transformers declares comes first."""
    targets = tie_targets(model)
    groups: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(identity(tensor), []).append(name)
    return [sorted(n, key=lambda name: name in targets) if len(n) > 1 else n for n in groups.values()]


def replace_tensors(model: nn.Module, make: Callable[[Tensor], Tensor | None]) -> None:
    """Replace tensors of a model. A tensor with several names is replaced under all of them.

    Args:
        model: The model.
        make: Returns the replacement of a tensor, or None to keep it.
    """
    made: dict[int, Tensor | None] = {}
    kept = []  # keeps the old tensors alive until the end, so that no new tensor has the id of an old one
    for slot in list(tensor_slots(model)):
        old = slot.tensor
        kept.append(old)
        if id(old) not in made:
            made[id(old)] = make(old)
        new = made[id(old)]
        if new is None:
            continue
        if slot.is_buffer:
            slot.module._buffers[slot.leaf] = new
        elif old.is_meta:
            if not isinstance(new, nn.Parameter):
                new = made[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad)
            slot.module._parameters[slot.leaf] = new
        else:
            old.data = new  # the same object: an optimizer that holds it trains the new values


def materialize(model: nn.Module, device: torch.device) -> None:
    """Replace tensors on meta by uninitialized tensors on a device."""
    replace_tensors(
        model, lambda old: torch.empty_like(old, device=device, requires_grad=False) if old.is_meta else None
    )
