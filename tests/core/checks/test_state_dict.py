"""Wrong content, names, ties and memory of a state dict are found."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import nn

from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.checks.state_dict import frozen_stems, state_dict
from forgather_core.checks.try_check import PASSED, try_check

from .planted import changed_models, failures, written


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written("llama", tmp_path_factory.mktemp("state"))


@cache
def subject_of(directory: Path) -> ModelUnderTest:
    """Return the model under test of a directory, made once."""
    return ModelUnderTest(directory, Path(mkdtemp(dir=directory.parent)))


def row_of(directory: Path, plant: Callable[[Any], object] = lambda _: None) -> dict[str, Any]:
    """Run the check on models that `plant` changes."""
    return try_check(state_dict, changed_models(copy(subject_of(directory)), "fresh_model", plant))


def mlp(model: Any) -> Any:
    return model.model.layers[0].mlp


def freeze(model: Any) -> None:
    mlp(model).up_proj.weight.requires_grad_(False)


def add_buffer(model: Any) -> None:
    mlp(model).register_buffer("scale", torch.ones(1))


def add_buffer_in_forward(model: Any) -> None:
    mlp(model).register_forward_hook(lambda module, *_: module.register_buffer("seen", torch.ones(1)))


def rename_in_eval(model: Any) -> None:
    model._register_state_dict_hook(
        lambda module, state, *_: None if module.training else state.update({"other": state.pop("lm_head.weight")})
    )


def hide(model: Any) -> None:
    mlp(model).more = [nn.Linear(2, 2)]


def leave_out(model: Any) -> None:
    model._register_state_dict_hook(lambda _, state, *__: state.__delitem__("model.norm.weight"))


def change(model: Any) -> None:
    key = "model.norm.weight"
    model._register_state_dict_hook(lambda _, state, *__: state.update({key: state[key] + 1}))


def view(model: Any) -> None:
    down = mlp(model).down_proj
    down.weight = nn.Parameter(torch.randn(2, *down.weight.shape)[0])


def share(model: Any) -> None:
    mlp(model).up_proj.weight = mlp(model).gate_proj.weight


def declare(model: Any) -> None:
    model.all_tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}


def ignore_loading(model: Any) -> None:
    model.load_state_dict = lambda state, strict: None


def report_loading(model: Any) -> None:
    load = model.load_state_dict
    model.load_state_dict = lambda state, strict: type(load(state))(["a.weight"], [])


MISTAKES = {
    freeze: "parameters do not require a gradient, and no option freezes them: model.layers.0.mlp.up_proj.weight",
    add_buffer: "the state dict has buffers: model.layers.0.mlp.scale",
    add_buffer_in_forward: "the names of the state dict change after a forward pass in eval: model.layers.0.mlp.seen",
    rename_in_eval: "the names of the state dict change in eval: lm_head.weight, other",
    hide: "not registered, so that they are not saved: model.layers.0.mlp.more",
    leave_out: "the state dict lacks parameters: model.norm.weight",
    change: "values in the state dict differ from the parameters, at model.norm.weight",
    view: "parameters are views into larger tensors: model.layers.0.mlp.down_proj.weight",
    share: "share memory and are not declared as tied",
    declare: "lm_head.weight is declared as tied to model.embed_tokens.weight, and is not the same parameter",
    ignore_loading: "after load_state_dict, values differ from the loaded ones",
    report_loading: "load_state_dict reports missing or unexpected keys: a.weight",
}


def test_a_correct_model_passes(llama: Path) -> None:
    row = row_of(llama)
    assert row["result"] == PASSED, failures(row)


@pytest.mark.parametrize(("plant", "expected"), MISTAKES.items(), ids=[plant.__name__ for plant in MISTAKES])
def test_a_mistake_is_found(plant: Callable[[Any], object], expected: str, llama: Path) -> None:
    found = failures(row_of(llama, plant))
    assert any(expected in text for text in found), found


def test_a_model_that_does_not_load_strictly_fails(llama: Path) -> None:
    found = failures(row_of(llama, leave_out))
    assert any(text.startswith("load_state_dict with strict=True raises RuntimeError") for text in found), found


def test_options_may_freeze_parameters() -> None:
    config = {"alibi_trainable": False, "freeze_norms": True, "trainable_head": True, "train_embedding": False}
    assert frozen_stems(config | {"frozen_layers": 2}) == ["alibi", "norms", "embedding"]
