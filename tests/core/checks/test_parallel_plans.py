"""Plans that name missing modules or split them in a wrong way are found, with the module."""

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

from forgather_core.checks.parallel_plans import parallel_plans
from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.checks.shared.parallel_split import pattern_of
from forgather_core.checks.try_check import PASSED, SKIPPED, try_check

from .planted import failures, written

LAYER, ATTENTION, MLP = "model.layers.*", "model.layers.*.self_attn", "model.layers.*.mlp"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


@cache
def subject_of(definition: str, place: Path) -> ModelUnderTest:
    """Return the model under test of a definition, made once."""
    return ModelUnderTest(written(definition, place), Path(mkdtemp(dir=place)))


def row_of(definition: str, place: Path, plant: Callable[[Any], object] = lambda _: None) -> dict[str, Any]:
    """Run the check on a model that `plant` changes."""
    subject = copy(subject_of(definition, place))
    model = subject.randomized_model()
    plant(model)
    subject.randomized_model = lambda **_: model  # type: ignore[method-assign]
    return try_check(parallel_plans, subject)


def split(**changes: str | None) -> Callable[[Any], None]:
    """Return a function that changes the tensor plan; `.` and `*` are written as `__` and `N`."""

    def plant(model: Any) -> None:
        plan = {f"model.{name}": style for name, style in model.config.base_model_tp_plan.items()}
        changed = {f"{LAYER}.{name.replace('__', '.')}": style for name, style in changes.items()}
        model.config.base_model_tp_plan = {}
        model._tp_plan = {name: style for name, style in (plan | changed).items() if style is not None}

    return plant


def only_the_first_layer(model: Any) -> None:
    split(mlp__up_proj=None)(model)
    model._tp_plan["model.layers.0.mlp.up_proj"] = "colwise"


def stages(plan: dict[str, Any]) -> Callable[[Any], None]:
    return lambda model: model.__dict__.update(_pp_plan=plan)


EMBED, LAYERS = (["input_ids"], ["inputs_embeds"]), (["hidden_states", "attention_mask"], ["hidden_states"])
NORM, HEAD = (["hidden_states"], ["hidden_states"]), (["hidden_states"], ["logits"])


def plan_of(**changes: Any) -> dict[str, Any]:
    """Return llama's pipeline plan with other entries; an entry of None is left out."""
    plan = {"embed_tokens": EMBED, "layers": LAYERS, "norm": NORM} | changes
    return {"lm_head": HEAD} | {f"model.{name}": entry for name, entry in plan.items() if entry is not None}


class Reversed(nn.Linear):
    """Outputs in another order for a part than for the whole."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).roll(1, -1)


def roll(model: Any) -> None:
    model.model.layers[1].mlp.up_proj.__class__ = Reversed


def other_fsdp(model: Any) -> None:
    model.config.base_model_fsdp_plan = {"blocks.*": "free_full_weight"}
    model._fsdp_plan = {"model.blocks.*": "free_full_weight"}


MISTAKES: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "unknown module": ("llama", split(mlp__w1="colwise"), f"the tensor plan names {MLP}.w1, and the model has no such"),
    "unknown style": ("llama", split(mlp__up_proj="columns"), "the style 'columns' for model.layers.*.mlp.up_proj"),
    "one layer": ("llama", only_the_first_layer, "splits mlp.up_proj.weight in some layers, and not in layers 1, 2"),
    "exchanged": (
        "llama",
        split(mlp__up_proj="rowwise", mlp__down_proj="colwise"),
        "on rank 0 of 2, model.layers.0.mlp raises RuntimeError",
    ),
    "whole values": ("llama", split(self_attn__v_proj=None), "model.layers.0.self_attn raises RuntimeError"),
    "whole slopes": ("deepone", split(self_attn__alibi=None), "model.layers.0.self_attn raises RuntimeError"),
    "norms of heads": (
        "qwen3",
        split(self_attn__q_norm=None),
        "must be replicated_with_grad_allreduce, at model.layers",
    ),
    "norms of layers": (
        "llama",
        split(input_layernorm="replicated_with_grad_allreduce"),
        "the gradients of 2 ranks do not add up for model.layers.",
    ),
    "order of channels": ("llama", roll, "do not add up to the output of model.layers.1.mlp.down_proj"),
    "classes": (
        "llama",
        lambda m: m.__dict__.update(_no_split_modules={"Layer"}),
        "_no_split_modules lacks PreNormBlock",
    ),
    "FSDP": ("llama", other_fsdp, "the FSDP plan names model.blocks.*"),
    "stage that is absent": ("llama", stages(plan_of(blocks=LAYERS)), "the pipeline plan names model.blocks"),
    "stage left out": ("llama", stages(plan_of(norm=None)), "no stage of the pipeline plan has model.norm.weight"),
    "order": (
        "llama",
        stages({"lm_head": HEAD, "model.norm": NORM, "model.embed_tokens": EMBED, "model.layers": LAYERS}),
        "as they run, model.embed_tokens, model.layers, model.norm, lm_head; got model.norm, model.embed_tokens",
    ),
    "input": ("llama", stages(plan_of(norm=(["states"], ["hidden_states"]))), "has the input states for model.norm"),
    "output": ("llama", stages(plan_of(norm=(["hidden_states"], ["x"]))), "has the output x for model.norm"),
    "no pair": ("llama", stages(plan_of(norm=["hidden_states"])), "must have inputs and outputs for model.norm"),
}


@pytest.mark.parametrize("definition", ["single_head", "qwen3"])
def test_correct_plans_pass(definition: str, place: Path) -> None:
    row = row_of(definition, place)
    assert row["result"] == PASSED, failures(row)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str, place: Path) -> None:
    definition, plant, expected = MISTAKES[mistake]
    found = failures(row_of(definition, place, plant))
    assert any(expected in text for text in found), found


def test_weights_are_restored(place: Path) -> None:
    kept = []

    def note(model: Any) -> None:
        kept.extend([model, {name: id(parameter) for name, parameter in model.named_parameters()}])

    row_of("deepone", place, note)
    assert {name: id(parameter) for name, parameter in kept[0].named_parameters()} == kept[1]


def test_a_model_without_plans_has_nothing_to_check(place: Path) -> None:
    def remove(model: Any) -> None:
        model.__dict__.update(_tp_plan={}, _pp_plan={}, _no_split_modules=set())
        model.config.base_model_tp_plan = {}

    row = row_of("llama", place, remove)
    assert (row["result"], row["reason"]) == (SKIPPED, "the model has no plans")


def test_odd_heads_are_not_split(place: Path) -> None:
    def three(model: Any) -> None:
        model.config.num_key_value_heads = 1  # of the plan's view only: the weights remain

    row = row_of("llama", place, three)
    assert row["result"] == PASSED, failures(row)
    assert not any("self_attn.o_proj: outputs" in one["what"] for one in row["measured"])
    assert any("mlp.down_proj: outputs" in one["what"] for one in row["measured"])


def test_numbers_of_layers_become_stars() -> None:
    assert pattern_of("model.layers.10.mlp.0.w1") == "model.layers.*.mlp.*.w1"
