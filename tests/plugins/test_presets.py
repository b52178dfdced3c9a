"""Presets have their stated sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from forgather_core.definitions.registry import registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve

from .tiny import DEFINITIONS

# Number of parameters of each definition, with vocabulary v, hidden size d, intermediate size f, n layers, h heads,
# g key/value heads, and heads of size k.


def causal_lm(v: int, d: int, f: int, n: int, *, tied: bool = False) -> int:
    attention, feed_forward, norms = 4 * d * d, d * f + f + f * d + d, 2 * (d + d)
    return v * d + n * (attention + feed_forward + norms) + (0 if tied else d * v)


def llama(v: int, d: int, f: int, n: int, *, h: int, g: int, k: int, tied: bool = False, of_a_layer: int = 0) -> int:
    attention, feed_forward, norms = 2 * d * (h * k) + 2 * d * (g * k), 3 * d * f, 2 * d
    return v * d + n * (attention + feed_forward + norms + of_a_layer) + d + (0 if tied else d * v)


def deepone(v: int, d: int, f: int, n: int, *, h: int) -> int:
    return llama(v, d, f, n, h=h, g=h, k=d // h, of_a_layer=h)  # a slope for each head


def qwen3(v: int, d: int, f: int, n: int, *, h: int, g: int, k: int, tied: bool = False) -> int:
    return llama(v, d, f, n, h=h, g=g, k=k, tied=tied, of_a_layer=2 * k)  # a norm for queries and one for keys


def single_head(v: int, d: int, f: int, n: int) -> int:
    return v * d + n * (2 * d * d + 3 * d * f + 2 * d + 1) + d


PRESETS = {  # -> vocabulary, parameters, and the same by hand
    "causal_lm/4M": (2000, 4_178_944, causal_lm(2000, 256, 1024, 4)),
    "causal_lm/23M": (8000, 22_998_016, causal_lm(8000, 512, 2048, 6, tied=True)),
    "causal_lm/117M": (8000, 117_121_024, causal_lm(8000, 1024, 4096, 8)),
    "deepone/4M": (2000, 4_434_192, deepone(2000, 256, 768, 4, h=4)),
    "deepone/117M": (8000, 119_161_920, deepone(8000, 1024, 2816, 8, h=8)),
    "deepone/1.7B": (32000, 1_725_041_152, deepone(32000, 2048, 5376, 32, h=16)),
    "llama/4M": (2000, 4_434_176, llama(2000, 256, 768, 4, h=4, g=4, k=64)),
    "llama/30M": (8000, 30_321_152, llama(8000, 512, 1280, 10, h=8, g=2, k=64, tied=True)),
    "llama/117M": (8000, 119_161_856, llama(8000, 1024, 2816, 8, h=8, g=8, k=128)),
    "llama/llama2-7B": (32000, 6_738_415_616, llama(32000, 4096, 11008, 32, h=32, g=32, k=128)),
    "llama/llama3.2-1B": (128256, 1_235_814_400, llama(128256, 2048, 8192, 16, h=32, g=8, k=64, tied=True)),
    "mistral/4M": (2000, 4_434_176, llama(2000, 256, 896, 4, h=4, g=1, k=64)),
    "mistral/7B-v0.1": (32000, 7_241_732_096, llama(32000, 4096, 14336, 32, h=32, g=8, k=128)),
    "qwen3/4M": (2000, 4_172_544, qwen3(2000, 256, 768, 4, h=4, g=2, k=64)),
    "qwen3/0.6B": (151936, 596_049_920, qwen3(151936, 1024, 3072, 28, h=16, g=8, k=128, tied=True)),
    "qwen3/8B": (151936, 8_190_735_360, qwen3(151936, 4096, 12288, 36, h=32, g=8, k=128)),
    "smollm3/4M": (2000, 3_660_032, llama(2000, 256, 768, 4, h=4, g=2, k=64, tied=True)),
    "smollm3/3B": (128256, 3_075_098_624, llama(128256, 2048, 11008, 36, h=16, g=4, k=128, tied=True)),
    "single_head/4M": (8000, 4_607_238, single_head(8000, 256, 384, 6)),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_its_stated_number_of_parameters(name: str) -> None:
    vocab_size, count, by_hand = PRESETS[name]
    configuration = find_configuration(name, registry(), Path())
    assert configuration.notes["parameters"] == count == by_hand
    assert str(configuration.notes["source"]).startswith("https://")
    options = vars(resolve(configuration).options)
    assert options["vocab_size"] in (None, vocab_size)  # None: the tokenizer's
    model_class = DEFINITIONS[configuration.definition.name].model
    with torch.device("meta"):
        model = model_class(model_class.config_class(**options | {"vocab_size": vocab_size}))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_every_preset_of_every_definition_is_tested() -> None:
    found = {f"{name}/{preset}" for name in DEFINITIONS for preset in registry().definition(name).preset_names()}
    assert found == set(PRESETS)
    assert set(registry().names()) >= set(DEFINITIONS)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_the_name_of_a_preset_contains_its_size(definition: str) -> None:
    for preset in registry().definition(definition).preset_names():
        size = next(word for word in preset.split("-") if word[-1] in "MB" and word[:-1].replace(".", "").isdigit())
        named = float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]
        assert abs(PRESETS[f"{definition}/{preset}"][1] / named - 1) < 0.25
