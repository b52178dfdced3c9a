"""Contradictory options are refused; options without problems build."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig as NativeLlamaConfig
from transformers import MistralConfig, Qwen3Config, SmolLM3Config

from forgather_core.definitions.registry import registry
from forgather_core.options.spec import specs_of

from .tiny import DEFINITIONS, OPTIONS, ROPE, config_of

# --- options that contradict each other ------------------------------------------------------------------------------

ROTARY = ("llama", "mistral", "qwen3", "smollm3")
ROPE_WRONG = {
    "an odd head": ({"head_dim": 7}, "head_dim: must be even for RoPE, got 7"),
    "an odd head, derived": (
        {"hidden_size": 36, "num_attention_heads": 12, "num_key_value_heads": 1, "head_dim": None},
        "head_dim: must be even for RoPE, got 3",
    ),
    "an unknown type": ({"rope_parameters": {"rope_type": "rope"}}, "must be one of default, linear"),
    "a factor that is missing": ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "requires factor"),
    "a key of another type": ({"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}, "does not support factor"),
    "a theta below zero": ({"rope_parameters": {"rope_theta": -1.0}}, "above 0"),
    "a factor below one": ({"rope_parameters": ROPE["linear"] | {"factor": 0.5}}, "must be 1 or more"),
    "low above high": ({"rope_parameters": ROPE["llama3"] | {"low_freq_factor": 9.0}}, "must be above low_freq_factor"),
    "slow above fast": (
        {"rope_parameters": ROPE["yarn"] | {"beta_slow": 9.0, "beta_fast": 3.0}},
        "must be above beta_slow",
    ),
    "a list of another length": (
        {"head_dim": 8, "rope_parameters": ROPE["longrope"] | {"long_factor": [1.0]}},
        "a list of 4 numbers",
    ),
    "half a token": (
        {"rope_parameters": ROPE["yarn"] | {"original_max_position_embeddings": 16.5}},
        "must be an integer",
    ),
    "a head too small to stretch": ({"head_dim": 2, "rope_parameters": ROPE["dynamic"]}, "a head_dim of 4 or more"),
}
GROUPED_WRONG = {
    "heads do not divide": (
        {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": None},
        "num_attention_heads: must divide hidden_size (32), got 3",
    ),
    "KV heads do not divide": ({"num_key_value_heads": 3}, "must divide num_attention_heads (4), got 3"),
    "more KV heads than heads": ({"num_key_value_heads": 8}, "must divide num_attention_heads (4), got 8"),
}
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    f"{definition}, {title}": (definition, options, said)
    for definition, wrong in (
        *((name, GROUPED_WRONG | ROPE_WRONG) for name in ROTARY),
        ("deepone", GROUPED_WRONG),
        (
            "causal_lm",
            {
                "heads do not divide": (
                    {"num_attention_heads": 3},
                    "num_attention_heads: must divide hidden_size (32), got 3",
                ),
                "an odd size": (
                    {"hidden_size": 35, "num_attention_heads": 5},
                    "hidden_size: must be even for sinusoidal positions, got 35",
                ),
            },
        ),
    )
    for title, (options, said) in wrong.items()
}


def options_of(definition: str, **options: Any) -> Any:
    """Return the options of the tiny model, without those from the tokenizer."""
    option_class = registry().definition(definition).options
    names = {spec.name for spec in specs_of(option_class)}
    given = OPTIONS | DEFINITIONS[definition].options | options
    return option_class(**{name: value for name, value in given.items() if name in names})


@pytest.mark.parametrize(("definition", "options", "message"), WRONG.values(), ids=WRONG)
def test_options_that_contradict_each_other_are_refused(definition: str, options: dict[str, Any], message: str) -> None:
    problems = options_of(definition, **options).problems()
    assert message in " ".join(f"{name}: {sentence}" for name, sentence in problems)
    with pytest.raises(ValueError, match=re.escape(message)):
        config_of(definition, **options)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_valid_options_have_no_problem(definition: str) -> None:
    variants: list[dict[str, Any]] = [{}]
    if definition in ROTARY:
        variants += [{"head_dim": 8, "rope_parameters": dict(rope)} for rope in ROPE.values()]
    for variant in variants:
        assert list(options_of(definition, **variant).problems()) == []


@pytest.mark.parametrize("definition", ROTARY)
def test_a_missing_theta_is_required_in_options_and_defaults_to_transformers_in_a_configuration(
    definition: str,
) -> None:
    rope = {"rope_type": "default"}
    assert ("rope_parameters", "rope_type 'default' requires rope_theta") in options_of(
        definition, rope_parameters=rope
    ).problems()
    config = config_of(definition, rope_parameters=rope)
    assert config.rope_parameters["rope_theta"] == {"smollm3": 2000000}.get(definition, 10000)


OLD_ROPE: dict[str, dict[str, Any]] = {
    "theta alone": {"rope_theta": 1234.0},
    "theta, no scaling": {"rope_theta": 1234.0, "rope_scaling": None},
    "scaling under its first name": {"rope_theta": 1234.0, "rope_scaling": {"type": "linear", "factor": 3.0}},
    "scaling": {"rope_theta": 1234.0, "rope_scaling": {"rope_type": "dynamic", "factor": 3.0}},
    "no scaling": {"rope_scaling": None},
    "both forms": {"rope_theta": 1234.0, "rope_parameters": {"rope_type": "linear", "rope_theta": 5.0, "factor": 2.0}},
}


@pytest.mark.parametrize("said", OLD_ROPE.values(), ids=OLD_ROPE)
@pytest.mark.parametrize("definition", ROTARY)
def test_rope_fields_of_older_files_are_read_as_transformers_reads_them(definition: str, said: dict[str, Any]) -> None:
    classes = {"llama": NativeLlamaConfig, "mistral": MistralConfig, "qwen3": Qwen3Config, "smollm3": SmolLM3Config}
    native = classes[definition]
    expected = dict(native(**copy.deepcopy(said)).rope_parameters)
    expected.pop("type", None)  # what rope_type was called once
    assert config_of(definition, **copy.deepcopy(said)).rope_parameters == expected


BUILT_IN = {
    "causal_lm": {"hidden_act": "gelu"},
    "deepone": {"hidden_act": "silu"},
    "llama": {"hidden_act": "gelu", "attention_bias": True, "mlp_bias": True},
    "mistral": {"hidden_act": "gelu"},
    "qwen3": {"hidden_act": "gelu", "attention_bias": True},
    "single_head": {"hidden_act": "silu", "num_attention_heads": 4, "num_key_value_heads": 2},
    "smollm3": {"hidden_act": "gelu", "attention_bias": True, "mlp_bias": True},
}


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_fixed_values_cannot_be_changed(definition: str) -> None:
    built_in = DEFINITIONS[definition].model.config_class.built_in
    assert built_in.keys() == BUILT_IN.get(definition, {}).keys()
    for name, value in BUILT_IN.get(definition, {}).items():
        with pytest.raises(ValueError, match=f"{name} is fixed to"):
            config_of(definition, **{name: value})
        config_of(definition, **{name: built_in[name]})


FOREIGN: dict[str, dict[str, Any]] = {
    "causal_lm": {"num_key_value_heads": 2, "head_dim": 8, "rope_parameters": {"rope_theta": 1e4}, "mlp_bias": True},
    "deepone": {"rope_theta": 1e4, "attention_bias": True, "layer_types": ["sliding_attention"] * 2},
    "llama": {"layer_types": ["full_attention"] * 2, "use_sliding_window": True},
    "mistral": {"max_window_layers": 1, "attention_bias": True},
    "qwen3": {"mlp_bias": True},
    "single_head": {"head_dim": 8, "rope_parameters": {"rope_theta": 1e4}},
    "smollm3": {"max_window_layers": 1, "qk_norm": True},
}


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_options_of_other_architectures_are_refused(definition: str) -> None:
    for name, value in FOREIGN[definition].items():
        with pytest.raises(ValueError, match=f"{name} is not supported by this model"):
            config_of(definition, **{name: value})
        config_of(definition, **{name: None})


FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, [FULL, FULL]),
        ({"sliding_window": 4}, [SLIDING, SLIDING]),
        ({"sliding_window": 4, "max_window_layers": 1}, [FULL, SLIDING]),
        ({"sliding_window": 4, "max_window_layers": 2}, [FULL, FULL]),
        ({"sliding_window": 4, "use_sliding_window": False}, [FULL, FULL]),
    ],
    ids=str,
)
def test_layer_types_of_qwen3_follow_from_its_window(options: dict[str, Any], kinds: list[str]) -> None:
    config = config_of("qwen3", **options)
    assert config.layer_types == kinds
    assert config.use_sliding_window == (config.sliding_window is not None)
    assert config_of("qwen3", layer_types=list(kinds), **options).layer_types == kinds
    for wrong in (kinds[:1], [*kinds, FULL], [SLIDING if kind == FULL else FULL for kind in kinds]):
        with pytest.raises(ValueError, match=r"layer_types must be .* for this sliding_window and max_window_layers"):
            config_of("qwen3", layer_types=wrong, **options)


@pytest.mark.parametrize(
    ("options", "kinds", "rotary"),
    [
        ({}, [FULL, FULL], [1, 0]),
        ({"no_rope_layer_interval": 1}, [FULL, FULL], [0, 0]),
        ({"no_rope_layers": [0, 1, 0]}, [FULL, FULL], [0, 1]),  # of a deeper model
        ({"sliding_window": 4}, [FULL, SLIDING], [1, 0]),
        ({"sliding_window": 4, "no_rope_layers": [0, 1]}, [SLIDING, FULL], [0, 1]),
        ({"sliding_window": 4, "layer_types": [SLIDING, FULL, SLIDING]}, [SLIDING, FULL], [1, 0]),
        ({"sliding_window": 4, "use_sliding_window": False}, [FULL, FULL], [1, 0]),
    ],
    ids=str,
)
def test_layers_of_smollm3(options: dict[str, Any], kinds: list[str], rotary: list[int]) -> None:
    config = config_of("smollm3", **options)
    assert (config.layer_types, config.no_rope_layers) == (kinds, rotary)
    assert config.use_sliding_window == (config.sliding_window is not None)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"no_rope_layers": [1]}, r"no_rope_layers: must have a value for each of the 2 layers .*, got 1"),
        ({"no_rope_layers": [1, 2]}, "no_rope_layers: must contain 0 and 1 only, got 2"),
        ({"layer_types": [FULL, "conv"]}, "layer_types: must contain full_attention and sliding_attention only"),
        ({"layer_types": [FULL]}, "layer_types: must have a value for each of the 2 layers"),
        ({"layer_types": [FULL, SLIDING]}, "layer_types: sliding_attention requires sliding_window"),
    ],
    ids=str,
)
def test_lists_of_layers_must_fit(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        config_of("smollm3", **options)


# --- options without problems ----------------------------------------------------------------------------------------

small = st.integers(1, 4)
DRAWN: dict[str, st.SearchStrategy[Any]] = {
    "hidden_size": st.integers(1, 40) | st.sampled_from([8, 16, 24]),
    "intermediate_size": st.integers(1, 9),
    "num_hidden_layers": st.integers(1, 3),
    "num_attention_heads": small | st.integers(1, 12),
    "num_key_value_heads": st.none() | small | st.integers(1, 12),
    "head_dim": st.none() | st.sampled_from([2, 4, 8]) | st.integers(1, 12),
    "vocab_size": st.integers(4, 9),
    "attention_dropout": st.floats(0, 0.9),
    "embedding_dropout": st.floats(0, 0.9),
    "layer_dropout": st.floats(0, 0.9),
    "activation_dropout": st.floats(0, 0.9),
    "rms_norm_eps": st.floats(1e-7, 1.0),
    "layer_norm_eps": st.floats(1e-7, 1.0),
    "tie_word_embeddings": st.booleans(),
    "sliding_window": st.none() | st.integers(2, 6),
    "max_window_layers": st.integers(0, 4),
    "layer_types": st.none() | st.lists(st.sampled_from([FULL, SLIDING, "conv"]), max_size=4),
    "no_rope_layer_interval": st.integers(1, 4),
    "no_rope_layers": st.none() | st.lists(st.integers(0, 2), max_size=4),
    "max_position_embeddings": st.none() | st.integers(1, 64),
    "rope_parameters": st.sampled_from(sorted(ROPE)).map(lambda kind: dict(ROPE[kind])),
    "alibi_slopes": st.sampled_from(["paper", "half"]),
    "alibi_trainable": st.booleans(),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("definition", DEFINITIONS)
@given(data=st.data())
@settings(max_examples=60)
def test_options_build_exactly_if_they_have_no_problem(definition: str, data: st.DataObject) -> None:
    option_class, model_class = registry().definition(definition).options, DEFINITIONS[definition].model
    options = {spec.name: data.draw(DRAWN[spec.name], label=spec.name) for spec in specs_of(option_class)}
    if list(option_class(**options).problems()):
        event("refused")
        with pytest.raises(ValueError):
            model_class.config_class(**options)
        return
    event("built")
    for attention in ("eager", "sdpa"):
        model = model_class(model_class.config_class(**options, attn_implementation=attention))
        ids = torch.tensor([[1, 2, 3, 2, 1, 3, 2, 1]])
        loss = model(ids, labels=ids).loss
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert model.eval()(ids).logits.isfinite().all()
