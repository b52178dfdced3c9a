"""Seeds: the same seed gives the same weights in every way of making a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import Registry
from forgather_core.model.build import build
from forgather_core.options.shared import BuildOptions
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve

from .fresh_weights import (
    Weights,
    check_equal,
    fresh,
    loaded,
    meta,
    random_ones,
    resized,
    unset,
    weights,
)
from .tiny import DEFINITIONS, config_of

EVERY = pytest.mark.parametrize("definition", DEFINITIONS)
UNTIED = {"tie_word_embeddings": False}


@pytest.mark.regression("seeded-pieces")
@EVERY
def test_the_number_of_layers_and_the_head_change_no_other_weight(definition: str) -> None:
    """Check that depth changes no values, in units of the std, which depends on the depth for deepone."""
    small, large = fresh(definition, num_hidden_layers=1), fresh(definition, num_hidden_layers=3)
    headless = fresh(definition, cls=DEFINITIONS[definition].model.decoder_class)
    whole = weights(fresh(definition))
    check_equal({f"model.{name}": value for name, value in weights(headless).items()}, without_head(whole))
    for name in random_ones(small):
        one, other = small.get_parameter(name), large.get_parameter(name)
        torch.testing.assert_close(one / one.std(), other / other.std(), rtol=1e-4, atol=1e-5)


def without_head(found: Weights) -> Weights:
    return {name: value for name, value in found.items() if name != "lm_head.weight"}


@EVERY
def test_ties_change_no_other_weight(definition: str) -> None:
    tied, untied = (fresh(definition, tie_word_embeddings=tie) for tie in (True, False))
    tied_weights, others = weights(tied.model), weights(untied.model)
    embedding, other = tied_weights.pop("embed_tokens.weight"), others.pop("embed_tokens.weight")
    check_equal(tied_weights, others)
    torch.testing.assert_close(embedding / embedding.std(), other / other.std(), rtol=1e-4, atol=1e-5)


@pytest.mark.regression("seeded-pieces")
@EVERY
def test_a_seed_gives_the_same_weights_however_a_model_is_made(definition: str, tmp_path: Path) -> None:
    expected = weights(fresh(definition))
    cls, config = DEFINITIONS[definition].model, config_of(definition, **UNTIED)

    def from_meta() -> Any:
        return meta(cls, config).to_empty(device="cpu")

    for make in (lambda: cls(config), from_meta, lambda: unset(cls, config)):
        model = make()
        torch.manual_seed(1)
        model.init_weights()
        check_equal(weights(model), expected)
    low = weights(fresh(definition, dtype=torch.bfloat16))
    check_equal(low, {name: value.to(low[name].dtype) for name, value in expected.items()})
    torch.manual_seed(1)
    check_equal(weights(cls(config)), expected)


@pytest.mark.regression("seeded-pieces")
@EVERY
def test_missing_weights_are_initialized_from_the_seed(definition: str, tmp_path: Path) -> None:
    model = fresh(definition, seed=9)
    expected = weights(fresh(definition))
    lacking = random_ones(model) - {"model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"}
    state = {name: value for name, value in model.state_dict().items() if name not in lacking}
    model.save_pretrained(tmp_path, state_dict=dict(state))  # it takes tensors out
    torch.manual_seed(1)
    found = type(model).from_pretrained(tmp_path)
    check_equal(weights(found), {name: expected[name] if name in lacking else state[name] for name in expected})
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="missing"):
        empty = loaded(meta(type(model), model.config), tmp_path, device="cpu")
    check_equal(weights(empty), weights(found))


@pytest.mark.few(2)
@pytest.mark.regression("fresh-seeds")
@EVERY
def test_build_and_from_config_agree_on_seeds(definition: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 96, "tokenizer": "bpe-2k"}
    place = construct(
        resolve(find_configuration(definition, Registry(), Path()), small), project=tmp_path
    ).directory.path
    built = build(place, BuildOptions(device="cpu", seed=7))
    config = AutoConfig.from_pretrained(place, trust_remote_code=True)
    torch.manual_seed(7)
    check_equal(weights(AutoModelForCausalLM.from_config(config, trust_remote_code=True)), weights(built))
    other = build(place, BuildOptions(device="cpu", seed=8))
    assert not any(torch.equal(other.get_parameter(n), built.get_parameter(n)) for n in random_ones(built))


@EVERY
def test_two_models_differ_and_the_global_generator_decides(definition: str) -> None:
    one, two = fresh(definition), DEFINITIONS[definition].model(config_of(definition, **UNTIED))
    again = weights(two)
    two.init_weights()
    for name in random_ones(one):
        found = [one.get_parameter(name), again[name], two.get_parameter(name)]
        assert not any(torch.equal(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2))), name
    torch.manual_seed(1)
    check_equal(weights(DEFINITIONS[definition].model(config_of(definition, **UNTIED))), weights(one))


def test_a_load_that_lacks_nothing_and_a_model_on_meta_draw_nothing(tmp_path: Path) -> None:
    model = fresh("llama")
    model.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    type(model).from_pretrained(tmp_path)
    meta(type(model), model.config)
    model.post_init()
    assert torch.equal(torch.get_rng_state(), state)


def test_new_rows_are_drawn_by_the_rule_of_their_table() -> None:
    model = fresh("llama", hidden_size=64)
    old = model.model.embed_tokens.weight.detach().clone()
    resized(model, 3000, mean_resizing=False)
    new = model.model.embed_tokens.weight.detach()
    assert torch.equal(new[: len(old)], old)
    assert new[len(old) :].std() == pytest.approx(1.0, rel=0.02)
    assert model.lm_head.weight.detach()[len(old) :].std() == pytest.approx(64**-0.5 * 0.9866, rel=0.02)
    first = new[len(old) :].clone()
    again = resized(fresh("llama", hidden_size=64), 3000, mean_resizing=False)
    assert torch.equal(again.model.embed_tokens.weight[len(old) :], first)


def test_wrapped_layers_have_the_numbers_of_plain_ones() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    plain, wrapped = fresh("llama"), fresh("llama", seed=2)
    wrapped.model.layers[0] = torch.compile(wrapped.model.layers[0])
    wrapped.model.layers[1].mlp = checkpoint_wrapper(wrapped.model.layers[1].mlp)
    torch.manual_seed(1)
    wrapped.init_weights()
    for one, other in zip(plain.parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(one, other)
    torch.manual_seed(1)
    torch.nn.DataParallel(wrapped).module.init_weights()
    torch.testing.assert_close([*wrapped.parameters()], [*plain.parameters()], rtol=0, atol=0)


def test_two_decoders_in_one_model_differ() -> None:
    from forgather_core.parts.pretrained import Pretrained

    decoder = DEFINITIONS["llama"].model.decoder_class

    class Towers(Pretrained):
        config_class = decoder.config_class

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.left, self.right = decoder(config), decoder(config)
            self.post_init()

    towers = fresh("llama", cls=Towers)
    for _ in range(2):
        for name in random_ones(towers.left):
            assert not torch.equal(towers.left.get_parameter(name), towers.right.get_parameter(name))
        towers.init_weights()
