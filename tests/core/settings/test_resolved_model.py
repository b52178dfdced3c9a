"""The resolved model: options, tokenizer facts and the values of the configuration, assembled in one place."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forgather_core.definitions.registry import registry
from forgather_core.errors import ConfigurationError
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import ResolvedModel


def resolved(template: str = "llama", **flags: Any) -> ResolvedModel:
    return resolve(find_configuration(template, registry(), Path()), flags)


def test_values_come_from_options_derivation_and_tokenizer() -> None:
    model = resolved(tokenizer="bpe-2k", hidden_size=64, num_attention_heads=4, num_key_value_heads=None)
    found = {name: (item.value, item.origin.label) for name, item in model.values.items()}
    assert found["hidden_size"] == (64, "--hidden-size")
    assert found["num_key_value_heads"] == (4, "derived")
    assert model.tokenizer is not None
    assert found["vocab_size"] == (model.tokenizer.vocab_size, "tokenizer")


def test_config_has_the_values_and_the_token_ids() -> None:
    model = resolved(tokenizer="bpe-2k", hidden_size=64)
    assert model.tokenizer is not None
    assert model.config["hidden_size"] == 64
    assert model.config["vocab_size"] == model.tokenizer.vocab_size
    assert model.config["bos_token_id"] == model.tokenizer.bos_token_id


def test_without_a_tokenizer_its_values_are_missing() -> None:
    model = replace(resolved(), tokenizer=None)
    assert model.values["vocab_size"].value is None
    assert "vocab_size" not in model.config
    assert set(model.token_ids.values()) == {None}


def test_hub_tokenizer_is_not_loaded() -> None:
    model = resolved(tokenizer="org/name", vocab_size=300)
    assert model.tokenizer is None
    assert model.config["vocab_size"] == 300


def test_too_small_vocabulary_is_refused_when_the_tokenizer_is_known() -> None:
    small = resolved(tokenizer="org/name", vocab_size=300)
    facts = resolved(tokenizer="bpe-2k").tokenizer
    with pytest.raises(ConfigurationError, match="--vocab-size: 300 is smaller than the 2000 entries"):
        small.with_tokenizer(facts)
    with pytest.raises(ConfigurationError, match="--vocab-size: 300 is smaller than the 2000 entries"):
        resolved(tokenizer="bpe-2k", vocab_size=300)


def test_resolving_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from forgather_core.definitions.registry import registry\n"
        "from forgather_core.settings.layers import find_configuration\n"
        "from forgather_core.settings.resolve import resolve\n"
        "model = resolve(find_configuration('llama/4M', registry(), Path()))\n"
        "assert model.config['vocab_size'] and not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
