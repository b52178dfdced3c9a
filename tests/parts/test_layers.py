"""Layers that differ: masks, rotary embeddings and caches of each kind; shared and returned values; states."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from forgather_core.checks.shared.implementations import uncompiled
from forgather_core.parts.alibi import Alibi
from forgather_core.parts.caches import CACHE
from forgather_core.parts.requirements import CAUSAL, Needs, check_inputs, merged_needs, sliding
from tests.plugins.tiny import TOLERANCE, difference, tokens
from tests.support.mixed import MixedForCausalLM, mixed

FULL, SLIDING, STATE = "full_attention", "sliding_attention", "linear_attention"
KINDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "full and window": ((FULL, SLIDING, FULL), {}),
    "window first": ((SLIDING, FULL), {}),
    "RoPE by layer": ((FULL, SLIDING, FULL), {"ropes": ["default", "local", None]}),
    "states and attention": ((STATE, FULL, STATE, SLIDING), {}),
    "states only": ((STATE, STATE), {}),
}
HAS_STATES = Version(transformers.__version__) >= Version("5.13")
if not HAS_STATES:
    KINDS = {name: kinds for name, kinds in KINDS.items() if "states" not in name}
needs_states = pytest.mark.skipif(not HAS_STATES, reason="transformers has no cache for states")
MIXER = STATE if HAS_STATES else FULL
ATTENTION = ["eager", "sdpa", "flex_attention"]
DOCUMENTS = [4, 1, 7, 5]


def model_of(case: str, **options: Any) -> Any:
    kinds, own = KINDS[case]
    return mixed(*kinds, **own | options)


def in_chunks(model: Any, ids: Tensor, sizes: list[int], **kwargs: Any) -> Tensor:
    """Return the logits of ids [B, T], read in chunks with a cache; masks cover what has been read."""
    cache, logits, done = DynamicCache(config=model.config), [], 0
    for size in sizes:
        own = {name: value[:, done : done + size] for name, value in kwargs.items() if name == "position_ids"}
        if "attention_mask" in kwargs:
            own["attention_mask"] = kwargs["attention_mask"][:, : done + size]
        logits.append(model(ids[:, done : done + size], **{CACHE: cache}, **own).logits)
        done += size
    assert done == ids.shape[1]
    return torch.cat(logits, dim=1)


@pytest.mark.few(20)
@pytest.mark.parametrize("sizes", [None, [17], [3, 1, 6, 7], [1] * 17], ids=str)
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", KINDS)
@torch.no_grad()
def test_packed_documents_equal_each_document_alone(case: str, attention: str, sizes: list[int] | None) -> None:
    model = model_of(case, attention=attention)
    documents = [tokens(2, length, seed=length) for length in DOCUMENTS]
    positions = torch.cat([torch.arange(length) for length in DOCUMENTS]).expand(2, -1)
    ids = torch.cat(documents, dim=1)
    with uncompiled():
        if sizes is None:
            packed = model(ids, position_ids=positions, use_cache=False).logits
        else:
            packed = in_chunks(model, ids, sizes, position_ids=positions)
        alone = torch.cat([model(document).logits for document in documents], dim=1)
    assert difference(packed, alone) <= TOLERANCE


@pytest.mark.parametrize("case", KINDS)
@torch.no_grad()
def test_a_token_changes_no_earlier_logits(case: str) -> None:
    model, ids = model_of(case), tokens(2, 15)
    other = ids.clone()
    other[:, 9] = (other[:, 9] + 1) % 90 + 3
    before, after = model(ids).logits, model(other).logits
    assert difference(before[:, :9], after[:, :9]) <= TOLERANCE
    assert difference(before[:, 9:12], after[:, 9:12]) > 1e-2


@pytest.mark.parametrize("sizes", [None, [7, 1, 8], [16]], ids=str)
@pytest.mark.parametrize("case", KINDS)
@torch.no_grad()
def test_left_padding_changes_nothing(case: str, sizes: list[int] | None) -> None:
    model, ids = model_of(case), tokens(2, 11)
    padded = torch.cat((torch.full((2, 5), 1), ids), dim=1)
    mask = torch.tensor([[0] * 5 + [1] * 11] * 2)
    if sizes is None:
        logits = model(padded, attention_mask=mask).logits
    else:
        logits = in_chunks(model, padded, sizes, attention_mask=mask)
    assert difference(logits[:, 5:], model(ids).logits) <= TOLERANCE


@pytest.mark.few(8)
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("case", KINDS)
@torch.no_grad()
def test_generate_continues_as_without_a_cache(case: str, padded: bool, beams: int) -> None:
    model, ids = model_of(case), tokens(2, 6)
    mask = torch.ones_like(ids)
    if padded:
        ids[0, :3], mask[0, :3] = 1, 0
    settings = {"max_new_tokens": 12, "do_sample": False, "num_beams": beams, "eos_token_id": None}
    with_cache = model.generate(ids, attention_mask=mask, **settings)
    assert torch.equal(with_cache, model.generate(ids, attention_mask=mask, use_cache=False, **settings))


@torch.no_grad()
def test_each_distinct_mask_and_rotation_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = mixed(FULL, SLIDING, FULL, SLIDING, ropes=["default", "local", "default", "local"]), []
    for name in ("rotary_emb", "rotary_emb_local"):
        getattr(model.model, name).register_forward_hook(lambda *_, name=name: made.append(name))
    given = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(lambda _, args, kwargs: given.append(kwargs), with_kwargs=True)
    ids = tokens(1, 9)
    model(ids, attention_mask=torch.tensor([[0] * 2 + [1] * 7]))
    assert made == ["rotary_emb", "rotary_emb_local"]
    for name in ("attention_mask", "position_embeddings"):
        assert given[0][name] is given[2][name] and given[1][name] is given[3][name] is not given[0][name]


@torch.no_grad()
def test_a_layer_without_rope_does_not_depend_on_positions() -> None:
    ids, shifted = tokens(1, 9), torch.arange(3, 12)[None]
    shifted[:, 5:] += 4  # rotations depend on distances only
    for ropes, moves in ([None, None], False), (["default", None], True):
        model = mixed(FULL, FULL, ropes=ropes)
        whole = {"attention_mask": torch.ones(1, 1, 9, 9).bool().tril()}  # else a jump begins a document
        apart = difference(model(ids, **whole).logits, model(ids, position_ids=shifted, **whole).logits)
        assert (apart > 1e-2) == moves


@needs_states
@torch.no_grad()
def test_states_are_reset_with_the_cache() -> None:
    model, ids = mixed(STATE, STATE), tokens(2, 7)
    cache = DynamicCache(config=model.config)
    expected = model(ids, **{CACHE: cache}).logits
    cache.reset()
    assert difference(model(ids, **{CACHE: cache}).logits, expected) <= TOLERANCE


@pytest.mark.parametrize("case", [name for name in KINDS if name != "states only"])
@torch.no_grad()
def test_generate_with_a_static_cache(case: str) -> None:
    model, ids = model_of(case), tokens(2, 6)
    settings = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "disable_compile": True}
    static = model.generate(ids, cache_implementation="static", **settings)
    assert torch.equal(static, model.generate(ids, use_cache=False, **settings))


@needs_states
def test_a_cache_without_states_is_an_error() -> None:
    model, ids = mixed(FULL, STATE), tokens(1, 4)
    with pytest.raises(ValueError, match="layer 1 needs a cache with a state: set layer_types"):
        model(ids, **{CACHE: DynamicCache()})
    plain = mixed(FULL, FULL).config
    with pytest.raises(ValueError, match="layer 1 needs a cache with a state"):
        model(ids, **{CACHE: StaticCache(plain, max_cache_len=9)})


# Values that layers exchange

EXTRAS = ["inputs_embeds", "first value", "routers"]


def gradients(model: Any, ids: Tensor, **kwargs: Any) -> dict[str, Tensor]:
    model.zero_grad()
    model(ids, labels=ids, **kwargs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("extras", EXTRAS)
def test_values_have_gradients_under_gradient_checkpointing(extras: str, reentrant: bool) -> None:
    model, ids = mixed(FULL, MIXER, FULL, extras=extras).train(), tokens(2, 9)
    expected = gradients(model, ids)
    assert all(value.abs().max() > 0 for name, value in expected.items() if "value_proj" in name)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    found = gradients(model, ids)
    for name, value in expected.items():
        assert difference(found[name], value) <= TOLERANCE * value.abs().max(), name


def test_a_value_reaches_the_layers_that_ask_for_it() -> None:
    model, ids = mixed(FULL, FULL, FULL, extras="first value"), tokens(2, 9)
    seen: list[Tensor] = []
    for layer in model.model.layers[1:]:
        layer.mlp.value_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        output = model(ids)
    (value,) = output.layer_values["first_value"]
    assert value is seen[0] is seen[1]


@pytest.mark.parametrize("extras", ["input_ids", "inputs_embeds", "padding_mask", "document_starts"])
@torch.no_grad()
def test_the_decoder_provides_what_the_page_lists(extras: str) -> None:
    model = mixed(FULL, FULL, extras=extras)
    seen: list[Any] = []
    for layer in model.model.layers:
        layer.mlp.forward = lambda x, **values: seen.append(values[extras]) or x
    ids, positions = tokens(2, 6), torch.tensor([[0, 1, 0, 1, 2, 0]] * 2)
    mask = torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6])
    model(ids, position_ids=positions) if extras == "document_starts" else model(ids, attention_mask=mask)
    expected = {
        "input_ids": ids,
        "inputs_embeds": model.model.embed_tokens(ids),
        "padding_mask": mask.bool(),
        "document_starts": torch.tensor([[0, 0, 2, 2, 2, 5]] * 2),
    }[extras]
    assert len(seen) == 2 and all(torch.equal(value, expected) for value in seen)
    cache = DynamicCache(config=model.config)
    seen.clear()
    model(ids[:, :4], position_ids=positions[:, :4], **{CACHE: cache})
    model(ids[:, 4:], position_ids=positions[:, 4:], **{CACHE: cache})
    if extras == "document_starts":
        assert torch.equal(seen[-1], torch.tensor([[-2, 1]] * 2))


@pytest.mark.parametrize("skip_logits", [False, True])
def test_the_auxiliary_loss_is_added_and_returned(skip_logits: bool) -> None:
    model, ids = mixed(FULL, FULL, extras="routers"), tokens(2, 9)
    output = model(ids, labels=ids, skip_logits=skip_logits)
    assert (output.logits is None) == skip_logits
    logits = model(ids).logits
    cross_entropy = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert len(output.router_logits) == 2 and output.layer_values["router_logits"] is output.router_logits
    assert difference(output.aux_loss, sum(x.square().mean() for x in output.router_logits)) <= TOLERANCE
    assert difference(output.loss, cross_entropy + output.aux_loss) <= TOLERANCE
    output.loss.backward()
    weight = model.model.layers[0].mlp.value_proj.weight
    through_loss = weight.grad.clone()
    weight.grad = None
    model(ids).aux_loss.backward()
    assert difference(weight.grad, through_loss) <= TOLERANCE * through_loss.abs().max()  # the value has no other use


def test_the_auxiliary_loss_has_the_weight_of_the_configuration() -> None:
    model, ids = mixed(FULL, extras="routers"), tokens(2, 9)
    model.config.router_aux_loss_coef = 0.25
    output = model(ids, labels=ids)
    plain = model.loss_function(output.logits, ids, vocab_size=97)
    assert difference(output.loss, plain + 0.25 * output.aux_loss) <= TOLERANCE


@needs_states
def test_hidden_states_and_attention_weights_are_recorded_of_layers_with_values() -> None:
    model, ids = mixed(FULL, STATE, FULL, extras="routers", attention="eager"), tokens(1, 5)
    output = model(ids, output_hidden_states=True, output_attentions=True)
    assert [x.shape for x in output.hidden_states] == [(1, 5, 32)] * 4
    assert [x.shape for x in output.attentions] == [(1, 4, 5, 5)] * 2


class OwnAttention(nn.Module):
    """Attention of an older plugin, which declares nothing and reads its arguments."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.given: dict[str, Any] = {}
        self.q_proj = attention.q_proj

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        self.given = kwargs
        return self.q_proj(hidden_states), None


@torch.no_grad()
def test_a_mixer_that_declares_nothing_gets_mask_and_rotation_by_the_configuration() -> None:
    for extras in ("", "routers"):
        model = mixed(FULL, SLIDING, extras=extras, attention="eager")
        ids = tokens(1, 9)
        expected: list[dict[str, Any]] = []
        for layer in model.model.layers:
            layer.self_attn.register_forward_pre_hook(
                lambda _, args, kw, into=expected: into.append(kw), with_kwargs=True
            )
        model(ids)
        for layer in model.model.layers:
            layer.self_attn = OwnAttention(layer.self_attn)
            layer.collect_needs()
        model.model.post_init()
        model(ids)
        for layer, wanted in zip(model.model.layers, expected, strict=True):
            given = layer.self_attn.given
            assert torch.equal(given["attention_mask"], wanted["attention_mask"])
            assert torch.equal(given["position_embeddings"][1], wanted["position_embeddings"][1])


def test_outputs_as_tuples_and_of_models_without_values() -> None:
    model, ids = mixed(FULL, extras="routers"), tokens(1, 5)
    assert "layer_values" not in mixed(FULL)(ids)
    as_tuple = model(ids, return_dict=False)
    assert difference(as_tuple[0], model(ids).logits) == 0 and isinstance(as_tuple[-1], dict)


@pytest.mark.few(2)
@pytest.mark.parametrize("extras", [*EXTRAS, "document_starts", ""])
def test_one_graph_is_compiled(extras: str) -> None:
    model = mixed(FULL, SLIDING, MIXER, extras="" if extras == "document_starts" else extras).train()
    ids, positions = tokens(2, 9), torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]] * 2)
    kwargs = {"position_ids": positions} if extras == "document_starts" else {}
    expected = gradients(model, ids, **kwargs)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    model.zero_grad()
    compiled(ids, labels=ids, use_cache=False, **kwargs).loss.backward()
    for name, parameter in model.named_parameters():
        assert difference(parameter.grad, expected[name]) <= TOLERANCE * expected[name].abs().max(), name


def test_a_later_stage_does_not_have_the_values_of_an_earlier_one() -> None:
    class Elsewhere(nn.Identity):
        """A placeholder for the layer of another stage."""

    for extras in ("first value", "inputs_embeds"):
        model = mixed(FULL, FULL, extras=extras).model
        model.layers[0] = Elsewhere()
        with pytest.raises(ValueError, match="which this call does not have: an earlier pipeline stage computes it"):
            model(inputs_embeds=torch.randn(1, 4, 32))


def test_token_ids_are_required_where_a_layer_asks_for_them() -> None:
    model = mixed(FULL, extras="input_ids")
    with pytest.raises(ValueError, match="a layer needs input_ids: pass input_ids instead of inputs_embeds"):
        model(inputs_embeds=torch.randn(1, 4, 32))


# Declarations


class Declares(nn.Module):
    def __init__(self, **needs: Any) -> None:
        super().__init__()
        self.declared = Needs(**needs)

    def needs(self) -> Needs:
        return self.declared


def test_needs_of_the_mixers_of_a_layer_are_merged() -> None:
    answers_for_others = Declares(bias=Alibi, inputs=("b", "c"), returns=("x",))
    answers_for_others.inner = Declares(returns=("z",))
    attention = Declares(mask=CAUSAL, rope="default", cache=FULL, inputs=("a", "b"))
    merged = merged_needs(
        nn.ModuleList([attention, nn.Linear(1, 1), answers_for_others, nn.Sequential(Declares(returns=("x", "y")))])
    )
    assert merged == Needs(CAUSAL, "default", FULL, Alibi, ("a", "b", "c"), ("x", "x", "y"))
    with pytest.raises(ValueError, match=r"different values of mask: .*full_attention.*sliding_attention"):
        merged_needs(nn.ModuleList([Declares(mask=CAUSAL), Declares(mask=sliding(4))]))


def test_a_value_must_come_from_an_earlier_layer() -> None:
    check_inputs([Needs(returns=("v",)), Needs(inputs=("v", "input_ids"))])
    with pytest.raises(ValueError, match="layer 0 needs v: expected a value that an earlier layer returns, or one of"):
        check_inputs([Needs(inputs=("v",), returns=("v",))])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"layer_types": [FULL, FULL]},
            "layer_types: layer 1 is 'sliding_attention' in the model, but 'full_attention'",
        ),
        ({"sliding_window": 7}, "sliding_window: layer 1 has 5 in the model, but 7 in the configuration"),
    ],
)
def test_the_configuration_must_describe_the_layers(changes: dict[str, Any], error: str) -> None:
    model = mixed(FULL, SLIDING)
    config = copy.deepcopy(model.config)
    for name, value in changes.items():
        setattr(config, name, value)

    class Other(type(model.model)):  # type: ignore[misc]
        def layer(self, i: int) -> Any:
            return copy.deepcopy(model.model.layers[i])

    with pytest.raises(ValueError, match=error):
        Other(config)


@torch.no_grad()
def test_a_change_of_the_window_applies_to_its_layers_only() -> None:
    changed, expected = mixed(FULL, SLIDING), mixed(FULL, SLIDING, sliding_window=3)
    changed.config.sliding_window = 3
    ids = tokens(2, 12)
    assert difference(changed(ids).logits, expected(ids).logits) == 0


@needs_states
def test_a_model_of_states_is_an_ordinary_model(tmp_path: Any) -> None:
    model, ids = mixed(STATE, STATE), tokens(1, 5)
    model.save_pretrained(tmp_path)
    loaded = MixedForCausalLM.from_pretrained(tmp_path)
    assert difference(loaded(ids).logits, model(ids).logits) == 0
