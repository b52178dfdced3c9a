"""The module that makes activations large is named, and no shipped initialization is reported."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from forgather_core.training.exploding import find_exploding_module
from tests.plugins.tiny import CASES, DEFINITIONS, config_of

from .planted import batch, failing, third_party, untouched


@pytest.mark.parametrize("definition", ["llama", "qwen3", "causal_lm"])
def test_names_the_module_that_makes_activations_large(definition: str) -> None:
    model = failing(definition)
    model.model.layers[1].mlp.up_proj.weight.data *= 1000
    with untouched(model):
        found = find_exploding_module(model, batch())
    number = r"[\d.,]+"
    assert re.fullmatch(
        rf"model\.layers\.1\.mlp\.up_proj multiplies its input 1,\d\d\d-fold \(RMS {number} -> 1,\d\d\d; "
        rf"weight std 2\d\d\)",
        found or "",
    )


def test_an_embedding_is_judged_by_its_output_alone() -> None:
    model = failing("deepone")
    model.model.embed_tokens.weight.data *= 100
    found = find_exploding_module(model, batch())
    assert found is not None
    assert found.startswith("model.embed_tokens outputs large values (RMS ")


def test_a_module_without_parameters_is_not_the_origin() -> None:
    class Large(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 1000

    model = failing("llama")
    model.model.norm = Large(32, elementwise_affine=False)
    assert find_exploding_module(model, batch()) is None
    model.model.norm = Large(32)
    assert (find_exploding_module(model, batch()) or "").startswith("model.norm multiplies its input")


def test_examines_the_head() -> None:
    model = failing("llama")
    model.lm_head.weight.data *= 50
    if hasattr(model.config, "skip_logits"):
        model.config.skip_logits = True
    assert (find_exploding_module(model, batch()) or "").startswith("lm_head multiplies its input")


@pytest.mark.parametrize("case", CASES)
def test_no_definitions_initial_weights_explode(case: str) -> None:
    definition, options = CASES[case]
    torch.manual_seed(0)
    model = DEFINITIONS[definition].model(config_of(definition, **options, hidden_size=64, num_hidden_layers=4))
    assert find_exploding_module(model, batch()) is None


def test_transformers_initial_weights_do_not_explode() -> None:
    assert find_exploding_module(third_party(), batch()) is None
