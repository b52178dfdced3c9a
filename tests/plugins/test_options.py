"""Every option of every definition has an effect: the intended one is measured, and nothing else changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from forgather_core.definitions.registry import registry
from forgather_core.options.spec import specs_of

from .tiny import DEFINITIONS, ROPE, TOLERANCE, config_of, difference, randomize_weights, tokens

PLUGINS = Path(__file__).parents[2] / "plugins"
IDS = tokens(2, 20)


@dataclass(frozen=True)
class Change:
    """Another value of an option, its expected effect, and the options that it requires.

    What it changes is one of
    shapes: names or shapes of the parameters;
    logits: those of the same weights;
    logits in training: those only, with the same random numbers;
    initial weights: those of a fresh model;
    trained: which parameters receive gradients.
    """

    value: Any
    changes: str
    context: dict[str, Any] = field(default_factory=dict)


CHANGES: dict[str, Change] = {
    "vocab_size": Change(101, "shapes"),
    "hidden_size": Change(48, "shapes"),
    "intermediate_size": Change(56, "shapes"),
    "num_hidden_layers": Change(3, "shapes"),
    "num_attention_heads": Change(2, "shapes"),
    "num_key_value_heads": Change(4, "shapes"),
    "head_dim": Change(12, "shapes"),
    "tie_word_embeddings": Change(True, "shapes"),
    "attention_dropout": Change(0.5, "logits in training"),
    "embedding_dropout": Change(0.5, "logits in training"),
    "layer_dropout": Change(0.5, "logits in training"),
    "activation_dropout": Change(0.5, "logits in training"),
    "rms_norm_eps": Change(0.1, "logits"),
    "layer_norm_eps": Change(0.1, "logits"),
    "sliding_window": Change(7, "logits"),
    "max_window_layers": Change(1, "logits", {"sliding_window": 5}),
    "rope_parameters": Change(ROPE["linear"], "logits"),
    "max_position_embeddings": Change(8, "logits", {"rope_parameters": ROPE["dynamic"]}),
    "layer_types": Change(["sliding_attention", "full_attention"], "logits", {"sliding_window": 5}),
    "no_rope_layer_interval": Change(1, "logits"),
    "no_rope_layers": Change([0, 1], "logits"),
    "alibi_slopes": Change("paper", "initial weights"),
    "alibi_trainable": Change(False, "trained"),
}
OTHERWISE = {  # in one definition an option of that name does another thing
    ("causal_lm", "num_attention_heads"): Change(2, "logits"),  # heads share the hidden size, whatever their number
}


def options_of(definition: str) -> list[str]:
    return [spec.name for spec in specs_of(registry().definition(definition).options)]


def made(definition: str, **options: Any) -> nn.Module:
    """Return a new model with the same random numbers each time."""
    torch.manual_seed(0)
    model: nn.Module = DEFINITIONS[definition].model(config_of(definition, **options)).eval()
    return model


def what_changes(definition: str, before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return all differences of two models of a definition; for different shapes, only the name."""
    models = [made(definition, **options) for options in (before, after)]
    shapes, trained, begun = (
        [{name: what(parameter) for name, parameter in model.named_parameters()} for model in models]
        for what in (lambda p: tuple(p.shape), lambda p: p.requires_grad, lambda p: p.detach().clone())
    )
    if shapes[0] != shapes[1]:
        return {"shapes"}
    found = set()
    if trained[0] != trained[1]:
        found.add("trained")
    if any(not torch.equal(begun[0][name], begun[1][name]) for name in begun[0]):
        found.add("initial weights")
    for kind in ("logits", "logits in training"):
        logits = []
        for model in models:
            randomize_weights(model)
            torch.manual_seed(0)
            logits.append(model.train(kind != "logits")(IDS).logits.detach())
        if difference(*logits) > 1e-3:
            return found | {kind}
        assert difference(*logits) <= TOLERANCE  # sdpa takes another way where a bias needs gradients
    return found


@pytest.mark.parametrize(("definition", "name"), [(d, name) for d in DEFINITIONS for name in options_of(d)])
def test_every_option_of_every_definition_changes_something(definition: str, name: str) -> None:
    assert name in CHANGES, f"say in CHANGES what '{name}' changes"
    change = OTHERWISE.get((definition, name), CHANGES[name])
    base = config_of(definition, **change.context)
    assert getattr(base, name) != change.value
    assert what_changes(definition, change.context, change.context | {name: change.value}) == {change.changes}


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_the_same_options_make_the_same_model(definition: str) -> None:
    assert what_changes(definition, {}, {}) == set()


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_an_option_keeps_its_value_in_the_configuration(definition: str) -> None:
    for name in options_of(definition):
        change = OTHERWISE.get((definition, name), CHANGES[name])
        config = config_of(definition, **change.context, **{name: change.value})
        assert getattr(config, name) == change.value
        assert config.to_dict()[name] == change.value


def test_there_is_a_tiny_model_of_every_definition_and_no_change_of_an_option_that_is_gone() -> None:
    assert {folder.name.removeprefix("forgather_") for folder in PLUGINS.glob("forgather_*")} == DEFINITIONS.keys()
    known = {(definition, name) for definition in DEFINITIONS for name in options_of(definition)}
    assert {name for _, name in known} == CHANGES.keys()
    assert known >= OTHERWISE.keys()


ALMOST_ALL = 1 - 2**-30
WITHOUT = {  # what no dropout leaves anything of is as if these weights were zero; the biases of what it feeds stay
    "attention_dropout": ("o_proj.weight", "ov_proj.weight"),
    "activation_dropout": ("down_proj.weight",),
    "layer_dropout": ("o_proj.weight", "ov_proj.weight", "down_proj.weight", "down_proj.bias"),
}
DROPOUTS = [(d, name) for d in DEFINITIONS for name in options_of(d) if name.endswith("_dropout")]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("definition", "name"), [pair for pair in DROPOUTS if pair[1] != "embedding_dropout"])
@torch.no_grad()
def test_a_dropout_acts_on_all_that_it_is_about_and_on_nothing_else(definition: str, name: str, attention: str) -> None:
    model = made(definition, attention=attention, **{name: ALMOST_ALL})
    randomize_weights(model)
    dropped = model.train()(IDS).logits
    zeroed = [parameter for path, parameter in model.named_parameters() if path.endswith(WITHOUT[name])]
    assert len(zeroed) >= 2  # in each of two layers
    for parameter in zeroed:
        parameter.zero_()
    assert difference(dropped, model.eval()(IDS).logits) <= TOLERANCE


@pytest.mark.parametrize("definition", [d for d, name in DROPOUTS if name == "embedding_dropout"])
@torch.no_grad()
def test_the_dropout_of_embeddings_takes_tokens_and_positions(definition: str) -> None:
    model = made(definition, embedding_dropout=ALMOST_ALL)
    randomize_weights(model)
    logits = model.train()(IDS).logits
    assert difference(logits, logits[:1, :1].expand_as(logits)) <= TOLERANCE


@pytest.mark.parametrize("trainable", [True, False], ids=["trained", "fixed"])
def test_slopes_receive_gradients_only_where_they_are_trained(trainable: bool) -> None:
    model = made("deepone", alibi_trainable=trainable)
    model(IDS, labels=IDS).loss.backward()
    slopes = {name: p for name, p in model.named_parameters() if name.endswith("slopes")}
    assert len(slopes) == 2
    for name, parameter in model.named_parameters():
        expected = trainable if name in slopes else True
        assert parameter.requires_grad == expected
        assert (parameter.grad is not None and bool(parameter.grad.any())) == expected


@pytest.mark.parametrize("scheme", ["paper", "half"])
def test_each_scheme_of_slopes_attends_in_its_own_way(scheme: str) -> None:
    """Slopes of a scheme give the logits of a model with these slopes as weights; the other scheme gives others."""
    drawn = made("deepone", alibi_slopes=scheme)
    for other in ("paper", "half"):
        model = made("deepone", alibi_slopes=other)
        randomize_weights(model)
        slopes = {name: p for name, p in drawn.state_dict().items() if name.endswith("slopes")}
        model.load_state_dict(slopes, strict=False)
        expected = model(IDS).logits
        fresh = {name: p for name, p in made("deepone", alibi_slopes=other).state_dict().items() if name in slopes}
        model.load_state_dict(fresh, strict=False)
        assert (difference(model(IDS).logits, expected) == 0) == (other == scheme)
