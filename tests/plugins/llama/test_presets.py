"""Presets have the sizes they promise, and options that contradict each other are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from forgather_llama.configuration_llama import LlamaConfig
from forgather_llama.modeling_llama import LlamaForCausalLM
from forgather_llama.options import LlamaOptions
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM as NativeLlama

from forgather_core.configurations import resolve
from forgather_core.registry import Registry

from .tiny import ROPE, native, tiny

PARAMETERS = {
    "4M": (4_434_176, 2000),
    "30M": (30_321_152, 8000),
    "117M": (119_161_856, 8000),
    "llama2-7B": (6_738_415_616, 32000),
    "llama3.2-1B": (1_235_814_400, 128256),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    configuration = resolve(f"llama/{name}", Registry(), Path())
    count, vocab_size = PARAMETERS[name]
    assert configuration.notes["parameters"] == count
    assert str(configuration.notes["source"]).startswith("https://")
    values = {k: v for layer in configuration.layers for k, v in layer.values.items() if hasattr(LlamaOptions, k)}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**values | {"vocab_size": vocab_size}))
    assert sum(p.numel() for p in model.parameters()) == count


def test_every_preset_is_tested() -> None:
    (definition,) = [d for d in Registry().definitions() if d.name == "llama"]
    assert set(definition.preset_names()) == set(PARAMETERS)


def test_names_of_weights_are_those_of_transformers() -> None:
    for options in ({}, {"tie_word_embeddings": True}):
        ours = tiny(**options)
        assert list(ours.state_dict()) == list(native(ours, **options).state_dict())


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}], ids=["untied", "tied"])
def test_a_checkpoint_of_transformers_loads_as_it_is(tmp_path: Path, options: dict[str, Any]) -> None:
    theirs = native(tiny(**options), **options)
    theirs.save_pretrained(tmp_path)
    ours = LlamaForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(12)[None]
    assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-5)
    assert isinstance(theirs, NativeLlama)


WRONG = {
    "heads do not divide": ({"num_attention_heads": 3}, "num_attention_heads"),
    "KV heads do not divide": ({"num_key_value_heads": 3}, "num_key_value_heads"),
    "an odd head": ({"head_dim": 7}, "head_dim"),
    "an odd head, derived": ({"hidden_size": 36, "num_attention_heads": 12, "num_key_value_heads": 1}, "head_dim"),
    "an unknown type": ({"rope_parameters": {"rope_type": "rope"}}, "none of default, linear"),
    "a factor that is missing": ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "needs factor"),
    "a key of another type": ({"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}, "does not know factor"),
    "a theta below zero": ({"rope_parameters": {"rope_theta": -1.0}}, "above 0"),
    "low above high": ({"rope_parameters": ROPE["llama3"] | {"low_freq_factor": 9.0}}, "must be above low_freq_factor"),
    "a list of another length": ({"rope_parameters": ROPE["longrope"] | {"long_factor": [1.0]}}, "a list of 4 numbers"),
}


@pytest.mark.parametrize(("options", "said"), WRONG.values(), ids=WRONG)
def test_options_that_contradict_each_other(options: dict[str, Any], said: str) -> None:
    base = {"hidden_size": 32, "num_attention_heads": 4}
    problems = list(LlamaOptions(**base | options).problems())
    assert problems
    assert said in " ".join(f"{name}: {sentence}" for name, sentence in problems)
    with pytest.raises(ValueError, match=said):
        LlamaConfig(**base | options)


@pytest.mark.parametrize("kind", ROPE)
def test_sound_rope_parameters_are_no_problem(kind: str) -> None:
    options = LlamaOptions(hidden_size=32, num_attention_heads=4, rope_parameters=dict(ROPE[kind]))
    assert list(options.problems()) == []


def test_what_llama_has_not_is_refused() -> None:
    for name, value in {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}.items():
        with pytest.raises(ValueError, match=f"{name}: this model has"):
            LlamaConfig(**{name: value})


sizes = st.integers(1, 40)


@given(sizes, st.integers(1, 12), st.one_of(st.none(), st.integers(1, 12)), st.one_of(st.none(), st.integers(2, 12)))
@settings(max_examples=150, deadline=None)
def test_what_has_no_problem_builds(hidden: int, heads: int, kv_heads: int | None, head_dim: int | None) -> None:
    options: dict[str, Any] = {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    options |= {"head_dim": head_dim, "num_hidden_layers": 1, "intermediate_size": 3, "vocab_size": 7}
    if list(LlamaOptions(**options).problems()):
        return
    model = LlamaForCausalLM(LlamaConfig(**options))
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
