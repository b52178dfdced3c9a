"""Initialization: when it runs, with which seed, and when it keeps existing weights."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgather_core.checkpoint.read.load import load_checkpoint
from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import Registry
from forgather_core.model.build import build
from forgather_core.model.no_init import no_init_weights
from forgather_core.options.shared import BuildOptions
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve

from .tiny import DEFINITIONS, config_of

EVERY = pytest.mark.parametrize("definition", DEFINITIONS)
UNTIED = {"tie_word_embeddings": False}
Weights = dict[str, Tensor]


def fresh(
    definition: str, seed: int = 1, *, cls: Any = None, dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    """Return a new model of its configuration, after `torch.manual_seed`."""
    torch.manual_seed(seed)
    return (cls or DEFINITIONS[definition].model)._from_config(config_of(definition, **(UNTIED | options)), dtype=dtype)


def weights(model: nn.Module) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def check_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def random_ones(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.dim() == 2}


# --- R4: initializing again ------------------------------------------------------------------------------------------


def sevens(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    return model


def meta(cls: Any, config: Any) -> Any:
    with torch.device("meta"):
        return cls(config)


def unset(cls: Any, config: Any) -> Any:
    with no_init_weights():
        return cls(config)


def loaded(model: Any, place: Path, **how: Any) -> Any:
    load_checkpoint(place, model, **how)
    return model


def taken(model: Any, state: Any, **how: Any) -> Any:
    model.load_state_dict(state, **how)
    model.tie_weights()  # on meta there was nothing to tie
    return model


def resized(model: Any, size: int, **how: Any) -> Any:
    model.resize_token_embeddings(size, **how)
    return model


def saved(model: Any, place: Path) -> Any:
    model.save_pretrained(place)
    return model


def with_adapters(model: Any) -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["down_proj"])
    return peft.get_peft_model(model, config).merge_and_unload()


# Sources of weights: the class, the configuration, a checkpoint, or the state dict of another model.
WAYS: dict[str, Callable[[Any, Any, Path, Any], Any]] = {
    "constructed": lambda cls, config, place, state: sevens(cls(config)),
    "copied": lambda cls, config, place, state: copy.deepcopy(sevens(cls(config))),
    "pickled": lambda cls, config, place, state: pickle.loads(pickle.dumps(sevens(cls(config)))),
    "saved": lambda cls, config, place, state: saved(sevens(cls(config)), place / "again"),
    "from_pretrained": lambda cls, config, place, state: cls.from_pretrained(place),
    "load_checkpoint, unset": lambda cls, config, place, state: loaded(unset(cls, config), place),
    "load_checkpoint, meta": lambda cls, config, place, state: loaded(meta(cls, config), place, device="cpu"),
    "load_checkpoint, assigned": lambda cls, config, place, state: loaded(meta(cls, config), place, assign=True),
    "load_checkpoint, to_empty": lambda cls, config, place, state: loaded(
        meta(cls, config).to_empty(device="cpu"), place
    ),
    "load_state_dict": lambda cls, config, place, state: taken(cls(config), state),
    "load_state_dict, unset": lambda cls, config, place, state: taken(unset(cls, config), state),
    "load_state_dict, assigned": lambda cls, config, place, state: taken(meta(cls, config), state, assign=True),
    "load_state_dict, to_empty": lambda cls, config, place, state: taken(
        meta(cls, config).to_empty(device="cpu"), state
    ),
    "larger": lambda cls, config, place, state: resized(sevens(cls(config)), 110),
    "larger, drawn": lambda cls, config, place, state: resized(sevens(cls(config)), 110, mean_resizing=False),
    "smaller": lambda cls, config, place, state: resized(sevens(cls(config)), 90),
    "loaded and larger": lambda cls, config, place, state: resized(cls.from_pretrained(place), 110),
    "PEFT, merged": lambda cls, config, place, state: with_adapters(sevens(cls(config))),
}
ALWAYS = {"from_pretrained", "loaded and larger"}  # these kept their weights before the fault was fixed, too
AGAIN: dict[str, Callable[[Any], object]] = {
    "post_init": lambda model: model.post_init(),
    "post_init of the decoder": lambda model: model.base_model.post_init(),
    "initialize_weights": lambda model: model.initialize_weights(),
}


@pytest.mark.few(10)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "way",
    [pytest.param(WAYS[name], id=name, marks=() if name in ALWAYS else pytest.mark.regression("R4")) for name in WAYS],
)
@pytest.mark.parametrize("definition", ["llama", "deepone"])
def test_a_model_keeps_its_weights(definition: str, way: Any, tied: bool, tmp_path: Path) -> None:
    cls, config = DEFINITIONS[definition].model, config_of(definition, tie_word_embeddings=tied)
    model = sevens(cls(config))
    model.save_pretrained(tmp_path)
    model = way(cls, copy.deepcopy(config), tmp_path, model.state_dict())
    before = weights(model)
    old_rows = model.get_input_embeddings().weight[:90]
    assert all((p == 7).all() for name, p in before.items() if "embed" not in name and "head" not in name)
    assert (old_rows == 7).all()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if not buffer.is_meta}
    for again in AGAIN.values():
        again(model)
        check_equal(weights(model), before)
    assert all(torch.equal(model.get_buffer(name), buffer) for name, buffer in buffers.items())
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


@pytest.mark.regression("R4")
@EVERY
def test_only_init_weights_starts_over(definition: str) -> None:
    model = sevens(fresh(definition))
    model.post_init()
    assert all((parameter == 7).all() for parameter in model.parameters())
    model.init_weights()
    assert not any((parameter == 7).any() for parameter in model.parameters())


def test_post_init_fills_modules_that_a_subclass_adds() -> None:
    class Larger(DEFINITIONS["llama"].model):  # type: ignore[misc, name-defined]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.extra_proj = nn.Linear(8, 8, bias=False)
            self.first = weights(self)
            self.post_init()

        def initial_weights(self) -> Any:
            from forgather_core.parts.initial_weights import normal

            yield "extra", normal(std=100.0)
            yield from super().initial_weights()

    model = fresh("llama", cls=Larger)
    expected = weights(fresh("llama"))
    extra = model.extra_proj.weight.detach()
    assert extra.std() > 50
    assert not torch.equal(extra, model.first.pop("extra_proj.weight"))
    check_equal(model.first, expected)
    check_equal({name: value for name, value in weights(model).items() if name in expected}, expected)


def test_after_an_error_the_next_call_fills_what_is_missing() -> None:
    model = sevens(fresh("llama"))
    model.model.extra = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="no row"):
        model.init_weights()
    del model.model.extra
    model.post_init()
    assert not any((parameter == 7).any() for parameter in model.parameters())


# --- Seeds -----------------------------------------------------------------------------------------------------------


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
def test_what_a_checkpoint_lacks_gets_the_weights_of_the_seed(definition: str, tmp_path: Path) -> None:
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
def test_build_and_from_config_agree_on_what_a_seed_means(definition: str, tmp_path: Path) -> None:
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


# --- The table -------------------------------------------------------------------------------------------------------


@pytest.mark.regression("residual-init")
@pytest.mark.parametrize("definition", ["llama", "mistral", "qwen3"])
def test_only_what_writes_to_the_residual_stream_is_scaled_by_depth(definition: str) -> None:
    layers = 8
    model = fresh(definition, hidden_size=128, intermediate_size=256, num_hidden_layers=layers)
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.weight"):
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 * 0.9866 / (math.sqrt(2 * layers) if writes else 1)
            assert parameter.std().item() == pytest.approx(std, rel=6 / math.sqrt(2 * parameter.numel())), name
