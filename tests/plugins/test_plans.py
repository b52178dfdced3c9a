"""Plans of tensor, pipeline and fully sharded parallelism name existing modules, and all that can be split.

tests/e2e/test_scale_out.py runs them.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from forgather_core.parts.caches import CACHE

from .tiny import CASES, DEFINITIONS, difference, tiny, tokens

# Not split: the one head of single_head, whose keys are the hidden states.
WHOLE = {"single_head": {"layers.*.self_attn.qk_proj", "layers.*.self_attn.ov_proj"}}
PLANS = ["tp", "pp", "fsdp"]


def star(name: str) -> str:
    """Return the name as in a plan: `layers.0.mlp` -> `layers.*.mlp`."""
    return re.sub(r"\.\d+\b", ".*", name)


def plan_of(model: Any, kind: str) -> dict[str, Any]:
    """Return the plan of a language model: its own entries, and those of its decoder with full names."""
    decoder = getattr(model.config, f"base_model_{kind}_plan", None) or {}
    own = getattr(type(model), f"_{kind}_plan", None) or {}
    return own | {f"model.{name}": rule for name, rule in decoder.items()}


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_every_rule_names_something_that_has_weights(definition: str, kind: str) -> None:
    model = tiny(definition)
    plan = plan_of(model, kind)
    if not plan and kind == "fsdp":
        pytest.skip("this release of transformers has no plan for FSDP")
    there = {star(name) for name, module in model.named_modules() if any(True for _ in module.parameters())}
    assert {name for name in plan if name not in there} == set()
    assert plan


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_every_matrix_of_attention_and_feed_forward_is_split(definition: str) -> None:
    model = tiny(definition).model
    matrices = {star(name) for name, module in model.layers.named_modules(prefix="layers") if type(module) is nn.Linear}
    split = {name for name, rule in model.config.base_model_tp_plan.items() if rule in ("colwise", "rowwise")}
    assert matrices >= {"layers.*.mlp.up_proj", "layers.*.mlp.down_proj"}
    assert matrices - split == WHOLE.get(definition, set())


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_what_is_split_by_heads_is_put_together_again(definition: str) -> None:
    """Within a layer, the last matrix of each sub-layer takes split inputs and gives the full output."""
    plan = tiny(definition).config.base_model_tp_plan
    rowwise = {name for name, rule in plan.items() if rule == "rowwise"}
    attention = set() if definition == "single_head" else {"layers.*.self_attn.o_proj"}
    assert rowwise == {"layers.*.mlp.down_proj"} | attention


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_slopes_and_norms_of_heads_go_with_the_heads(definition: str) -> None:
    model = tiny(definition).model
    plan = model.config.base_model_tp_plan
    of_heads = {
        star(name): tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if re.search(r"self_attn\.(alibi|q_norm|k_norm)", name)
    }
    expected = {
        "deepone": {"layers.*.self_attn.alibi.slopes": "colwise"},
        "qwen3": {f"layers.*.self_attn.{x}_norm.weight": "replicated_with_grad_allreduce" for x in "qk"},
        "single_head": {"layers.*.self_attn.alibi.slopes": None},  # with its one head, on every device
    }
    assert {name: plan.get(name.rpartition(".")[0]) for name in of_heads} == expected.get(definition, {})


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_plan_of_stages_has_all_weights_in_order(definition: str) -> None:
    model = tiny(definition)
    stages = list(model.model.config.base_model_pp_plan)
    assert stages == [name for name in ("embed_tokens", "layers", "norm") if has_weights(model.model, name)]
    assert {name.split(".")[0] for name, _ in model.model.named_parameters()} == set(stages)
    assert list(type(model)._pp_plan) == ["lm_head"]


def has_weights(model: nn.Module, name: str) -> bool:
    return any(True for _ in model.get_submodule(name).parameters())


class Elsewhere(nn.Identity):
    """A placeholder for layers of another stage, as in transformers and vLLM."""

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return x


def stages(case: str, first: int) -> list[Any]:
    """Return two stages of a decoder as a pipeline makes them: the first `first` layers, and the others."""
    definition, options = CASES[case]
    pair = [tiny(definition, num_hidden_layers=3, **options).model for _ in range(2)]
    pair[0].norm = Elsewhere()
    pair[1].embed_tokens = Elsewhere()
    for i in range(3):
        pair[i < first].layers[i] = Elsewhere()
    return pair


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_stages_compute_the_whole_each_with_a_cache_of_its_own(case: str, first: int) -> None:
    definition, options = CASES[case]
    whole = tiny(definition, num_hidden_layers=3, **options).model
    ids, mask = tokens(2, 14), torch.ones(2, 14, dtype=torch.long)
    mask[0, :3] = 0
    pair, config = stages(case, first), whole.config
    caches = [DynamicCache(config=config) for _ in range(3)]
    at = 0
    for size in (8, 1, 1, 4):
        here = {"attention_mask": mask[:, : at + size], "use_cache": True}
        given = ids[:, at : at + size]
        at += size
        expected = whole(given, past_key_values=caches[2], **here).last_hidden_state
        middle = pair[0](given, past_key_values=caches[0], **here).last_hidden_state
        end: BaseModelOutputWithPast = pair[1](inputs_embeds=middle, past_key_values=caches[1], **here)
        real = mask[:, at - size : at].bool()
        assert difference(end.last_hidden_state[real], expected[real]) == 0.0
        assert end[CACHE] is caches[1]  # not what the stage saw of it


class Wrapped(nn.Module):
    """A wrapper of a layer, like that of torch.compile."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = self.layer(*args, **kwargs)
        return result


@pytest.mark.parametrize("definition", DEFINITIONS)
@torch.no_grad()
def test_wrapped_layers_are_no_later_stage(definition: str) -> None:
    model, ids = tiny(definition), tokens(2, 9)
    expected = model(ids).logits
    for i, layer in enumerate(model.model.layers):
        model.model.layers[i] = Wrapped(layer)
    assert difference(model(ids).logits, expected) == 0.0


@pytest.mark.parametrize("number", [0, 1])
def test_a_layer_replaced_by_an_identity_is_not_a_stage(number: int) -> None:
    model = tiny("causal_lm")
    model.model.layers[number] = nn.Identity()
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        model(tokens(1, 9))


@torch.no_grad()
def test_a_model_that_has_lost_a_layer_keeps_the_windows_of_the_others() -> None:
    model, ids = tiny("qwen3", sliding_window=3, max_window_layers=1, num_hidden_layers=3), tokens(2, 14)
    del model.model.layers[0]
    reference = tiny("qwen3", sliding_window=3, max_window_layers=0, num_hidden_layers=2)
    reference.load_state_dict(model.state_dict())
    assert difference(model(ids, use_cache=False).logits, reference(ids, use_cache=False).logits) == 0.0
