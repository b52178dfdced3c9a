"""Tensors of a model are found under all of their names, and replaced under all of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgather_core.model.tensor_slots import (
    declared_ties,
    groups_of,
    identity,
    materialize,
    replace_tensors,
    state_of,
    tensor_slots,
    tie_targets,
)
from forgather_core.model.wrappers import Wrapped

CPU = torch.device("cpu")


class Net(nn.Module):
    """A tied head, a module with two names, buffers of both kinds, and slots that are None."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.first = nn.Linear(3, 3, bias=False)
        self.again = self.first
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("saved", torch.ones(2))
        self.register_buffer("derived", torch.ones(2), persistent=False)
        self.register_buffer("absent", None)


def test_every_name_is_a_slot() -> None:
    slots = {slot.name: slot for slot in tensor_slots(Net())}
    assert list(slots) == ["saved", "derived", "embed.weight", "first.weight", "again.weight", "head.weight"]
    assert [name for name, slot in slots.items() if slot.is_buffer] == ["saved", "derived"]
    assert [name for name, slot in slots.items() if not slot.persistent] == ["derived"]
    assert slots["head.weight"].tensor is slots["embed.weight"].tensor


def test_the_state_has_persistent_tensors_that_still_require_gradients() -> None:
    model = Net()
    state = state_of(Wrapped.of(model))
    assert state.keys() == model.state_dict().keys()
    assert state["embed.weight"] is model.embed.weight


def test_the_state_of_a_compiled_model_has_the_names_of_the_model() -> None:
    model: Any = Net()
    compiled: Any = torch.compile(model)
    assert state_of(Wrapped.of(compiled)).keys() == model.state_dict().keys()


def test_tensors_are_identical_if_they_share_all_of_their_memory() -> None:
    matrix = torch.zeros(4, 4)
    assert identity(matrix) == identity(matrix.detach()) == identity(matrix.view(4, 4))
    others = (matrix[:2], matrix.T, matrix.view(16), matrix.view(torch.int32), matrix.clone())
    assert len({identity(matrix), *map(identity, others)}) == 1 + len(others)


@pytest.mark.parametrize("make", [lambda: torch.empty(0), lambda: torch.empty(2, device="meta")])
def test_tensors_without_memory_are_only_identical_to_themselves(make: Any) -> None:
    one, other = make(), make()
    assert identity(one) == identity(one)
    assert identity(one) != identity(other)


def test_a_declared_source_comes_first_in_its_group() -> None:
    model: Any = Net()
    state = {"head.weight": model.head.weight, "embed.weight": model.embed.weight, "saved": model.saved}
    assert groups_of(model, state) == [["head.weight", "embed.weight"], ["saved"]]
    model.all_tied_weights_keys = {"head.weight": "embed.weight"}
    assert groups_of(model, state) == [["embed.weight", "head.weight"], ["saved"]]


def test_declared_ties_are_read_in_both_forms() -> None:
    model: Any = SimpleNamespace(all_tied_weights_keys={"head": "embed", "other": "embed"}, _tied_weights_keys=["old"])
    assert tie_targets(model) == {"head", "other", "old"}
    assert declared_ties(model) == {"head": ["embed"], "other": ["embed"], "embed": ["head", "other"]}
    listed: Any = SimpleNamespace(all_tied_weights_keys=None, _tied_weights_keys=["head"])
    assert (tie_targets(listed), declared_ties(listed)) == ({"head"}, {})


def test_parameters_stay_the_objects_that_an_optimizer_holds() -> None:
    model: Any = Net()
    before = dict(model.named_parameters())
    made: list[Tensor] = []

    def double(old: Tensor) -> Tensor:
        made.append(old)
        return torch.full_like(old, 2.0, requires_grad=False)

    replace_tensors(model, double)
    assert len(made) == 4, "each tensor is replaced once"
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert all(bool((slot.tensor == 2).all()) for slot in tensor_slots(model))
    assert model.head.weight is model.embed.weight
    assert model.saved is model._buffers["saved"]
    assert not model.saved.requires_grad


def test_none_keeps_a_tensor() -> None:
    model: Any = Net()
    weight, saved = model.embed.weight, model.saved
    values = weight.detach().clone()
    replace_tensors(model, lambda old: None if old is weight or old is saved else torch.zeros_like(old))
    assert model.embed.weight is model.head.weight is weight
    assert torch.equal(weight, values)
    assert model.saved is saved
    assert not model.first.weight.any()


def test_meta_tensors_become_parameters_and_stay_tied() -> None:
    with torch.device("meta"):
        model: Any = Net()
    model.first.weight.requires_grad_(False)
    model.derived = torch.ones(2)
    materialize(model, CPU)
    assert all(slot.tensor.device == CPU for slot in tensor_slots(model))
    assert isinstance(model.embed.weight, nn.Parameter)
    assert model.head.weight is model.embed.weight
    assert model.again.weight is model.first.weight
    assert (model.embed.weight.requires_grad, model.first.weight.requires_grad) == (True, False)
    assert torch.equal(model.derived, torch.ones(2)), "tensors that have values keep them"
