"""A plan of a load: which stored tensor fills which tensors, and what is missing, unexpected or of another shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from forgather_core.checkpoint.formats.stored import StoredTensor
from forgather_core.checkpoint.read.contents import Contents
from forgather_core.checkpoint.read.plan import Plan, few_matched, make_plan, refuse
from forgather_core.checkpoint.report import MissingTensor, OtherShape
from forgather_core.errors import CheckpointError


class InMemory(StoredTensor):
    """A stored tensor that counts how often its values are read."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(tuple(values.shape), values.dtype)
        self.values, self.reads = values, 0

    def tensor(self) -> Tensor:
        self.reads += 1
        return self.values


def contents(**tensors: Tensor) -> Contents:
    """Return a checkpoint; `__` in a name stands for a dot."""
    return Contents(Path("ckpt"), {name.replace("__", "."): InMemory(values) for name, values in tensors.items()})


class Net(nn.Module):
    """An embedding, a head that may be tied to it, and a buffer."""

    def __init__(self, *, tied: bool = False, declared: bool = False) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
        self.register_buffer("steps", torch.zeros(2))
        if tied:
            self.head.weight = self.embed.weight
        if declared:
            self.all_tied_weights_keys = {"head.weight": "embed.weight"}


def planned(model: nn.Module, checkpoint: Contents) -> tuple[Plan, dict[str, Tensor]]:
    state = model.state_dict(keep_vars=True)
    return make_plan(model, state, checkpoint), state


def refused(model: nn.Module, checkpoint: Contents, *, strict: bool = False, ignore: bool = False) -> None:
    plan, state = planned(model, checkpoint)
    refuse(plan, model, state, checkpoint, strict=strict, ignore_mismatched_sizes=ignore)


W, STEPS = torch.ones(4, 3), torch.ones(2)


def test_equal_names_fill_each_other_without_reading_values() -> None:
    checkpoint = contents(embed__weight=W, head__weight=W, steps=STEPS)
    plan, _ = planned(Net(), checkpoint)
    assert plan.fills == [([n], n) for n in ("steps", "embed.weight", "head.weight")]
    assert plan.filled == ("steps", "embed.weight", "head.weight")
    assert (plan.missing, plan.unexpected, plan.other_shape, plan.untied) == ([], [], [], False)
    assert not any(tensor.reads for tensor in checkpoint.values() if isinstance(tensor, InMemory))


@given(st.sets(st.sampled_from(["embed.weight", "head.weight", "steps", "other", "steps.more"])))
def test_every_name_is_planned_once(names: set[str]) -> None:
    model = Net()
    state = model.state_dict(keep_vars=True)
    stored = {name: InMemory(state[name].detach() if name in state else torch.ones(9)) for name in sorted(names)}
    plan = make_plan(model, state, Contents(Path("ckpt"), stored))
    assert set(plan.filled) == names & state.keys()
    assert [item.name for item in plan.missing] == [name for name in state if name not in names]
    assert set(plan.unexpected) == names - state.keys()
    assert plan.other_shape == []


@pytest.mark.parametrize("name", ["embed__weight", "head__weight"])
def test_one_stored_tensor_fills_all_names_of_a_tied_one(name: str) -> None:
    plan, _ = planned(Net(tied=True), contents(**{name: W}, steps=STEPS))
    assert plan.fills[1] == (["embed.weight", "head.weight"], name.replace("__", "."))
    assert (plan.missing, plan.unexpected) == ([], [])


def test_a_tied_tensor_is_missing_under_all_of_its_names() -> None:
    plan, _ = planned(Net(tied=True), contents(steps=STEPS))
    assert [item.name for item in plan.missing] == ["embed.weight", "head.weight"]


@pytest.mark.parametrize(("other", "lost"), [(W.clone(), []), (2 * W, ["head.weight"]), (W.double(), ["head.weight"])])
def test_a_stored_tensor_that_a_tie_loses_is_unexpected(other: Tensor, lost: list[str]) -> None:
    plan, _ = planned(Net(tied=True), contents(embed__weight=W, head__weight=other, steps=STEPS))
    assert plan.fills[1] == (["embed.weight", "head.weight"], "embed.weight")
    assert plan.unexpected == lost


def test_of_tied_tensors_the_one_that_fits_is_used() -> None:
    plan, _ = planned(Net(tied=True), contents(embed__weight=torch.ones(5, 3), head__weight=W, steps=STEPS))
    assert plan.fills[1] == (["embed.weight", "head.weight"], "head.weight")
    assert (plan.unexpected, plan.other_shape) == (["embed.weight"], [])


@pytest.mark.parametrize("declared", [False, True])
def test_a_declared_tie_fills_two_separate_tensors(declared: bool) -> None:
    plan, _ = planned(Net(declared=declared), contents(embed__weight=W, steps=STEPS))
    assert plan.untied == declared
    assert ((["head.weight"], "embed.weight") in plan.fills) == declared
    assert [item.name for item in plan.missing] == ([] if declared else ["head.weight"])


def test_missing_tensors_have_hints() -> None:
    near = contents(head__wieght=torch.ones(1), head__weigth=W, steps=STEPS)
    missing = planned(Net(), near)[0].missing
    assert missing[1] == MissingTensor("head.weight", "the checkpoint has head.weigth"), "one of the same shape"
    nothing: Any = contents(steps=STEPS)
    assert [item.hint for item in planned(Net(), nothing)[0].missing] == [None, None]
    tied = planned(Net(declared=True), nothing)[0].missing
    assert ["--tie-word-embeddings" in (item.hint or "") for item in tied] == [False, True]


def test_another_shape_is_neither_missing_nor_unexpected() -> None:
    checkpoint = contents(embed__weight=W.T, head__weight=W, steps=STEPS)
    plan, _ = planned(Net(), checkpoint)
    assert plan.other_shape == [OtherShape("embed.weight", (3, 4), (4, 3))]
    assert (plan.missing, plan.unexpected) == ([], [])
    with pytest.raises(CheckpointError, match=r"embed.weight \(expected 4 x 3, got 3 x 4, transposed\)"):
        refused(Net(), checkpoint)
    refused(Net(), checkpoint, ignore=True)
    with pytest.raises(CheckpointError, match="1 tensor with a different shape"):
        refused(Net(), checkpoint, ignore=True, strict=True)
    with pytest.raises(CheckpointError, match="3 tensors with a different shape"):  # nothing is left to load
        refused(Net(), contents(embed__weight=STEPS, head__weight=STEPS, steps=W), ignore=True)


CONVERSIONS = [
    (torch.float64, torch.float16, True),
    (torch.int8, torch.int64, True),
    (torch.uint8, torch.int16, True),
    (torch.complex64, torch.complex128, True),
    (torch.bool, torch.bool, True),
    (torch.int64, torch.int32, False),
    (torch.int8, torch.uint8, False),
    (torch.uint8, torch.int8, False),
    (torch.int64, torch.float32, False),
    (torch.float32, torch.int64, False),
    (torch.complex64, torch.float32, False),
    (torch.float32, torch.complex64, False),
    (torch.bool, torch.int8, False),
    (torch.int8, torch.bool, False),
]


@pytest.mark.parametrize(("stored", "wanted", "converts"), CONVERSIONS)
def test_values_keep_their_meaning_in_another_dtype(stored: torch.dtype, wanted: torch.dtype, converts: bool) -> None:
    model = nn.Module()
    model.register_buffer("x", torch.zeros(2, dtype=wanted))
    checkpoint = contents(x=torch.zeros(2, dtype=stored))
    if converts:
        refused(model, checkpoint)
        return
    with pytest.raises(CheckpointError, match=r"x \(expected .*, got .*\)"):
        refused(model, checkpoint)


def test_a_checkpoint_without_a_common_tensor_is_refused() -> None:
    with pytest.raises(CheckpointError, match="it is empty"):
        refused(Net(), contents())
    with pytest.raises(CheckpointError, match=r"no tensor in common .*'bias'"):
        refused(Net(), contents(bias=STEPS))
    refused(nn.Module(), contents(bias=STEPS))  # a model without tensors lacks none


def test_strict_refuses_missing_and_unexpected_tensors() -> None:
    partial, more = contents(embed__weight=W), contents(embed__weight=W, head__weight=W, steps=STEPS, bias=STEPS)
    for checkpoint in (partial, more):
        refused(Net(), checkpoint)
    with pytest.raises(CheckpointError, match=r"missing from the checkpoint: steps, head.weight.*nothing was loaded"):
        refused(Net(), partial, strict=True)
    with pytest.raises(CheckpointError, match=r"1 tensor not in the model: bias.*: load without strict=True"):
        refused(Net(), more, strict=True)


@pytest.mark.parametrize(
    ("tensors", "few"),
    [
        ({"steps": STEPS, "model__embed__weight": W}, True),
        ({"steps": STEPS}, False),  # a partial checkpoint: all of it was loaded
        ({"steps": STEPS, "embed__weight": W, "model__head__weight": W}, False),
    ],
)
def test_few_matching_names_are_a_warning(tensors: dict[str, Tensor], few: bool) -> None:
    plan, state = planned(Net(), contents(**tensors))
    warning = few_matched(plan, state, "ckpt")
    assert (warning is not None) == few
    if warning is not None:
        assert warning.startswith("only 1 of the model's 3 tensors")
