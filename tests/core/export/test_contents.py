"""Contents of the written files: configuration, generation config, model card, licence, manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, GenerationConfig

from forgather_core.errors import ConfigurationError
from forgather_core.export.directory import prepare_directory
from forgather_core.model.manifest import MANIFEST, edited_files, read_manifest
from tests.support.settings import Resolve


@pytest.fixture
def directory(small: Resolve, tmp_path: Path) -> Path:
    resolved = small(sliding_window=16, tokenizer="bpe-2k", chat_template="chatml")
    return prepare_directory(resolved, tmp_path / "model").path


@pytest.mark.regression("E8")
def test_generation_config_states_use_cache() -> None:
    from forgather_core.model.hf_config import generation_config_json

    assert json.loads(generation_config_json({"eos_token_id": 2}))["use_cache"] is True
    assert json.loads(generation_config_json({}, {"use_cache": False, "top_k": 5}))["use_cache"] is False


def test_the_configuration_has_options_and_tokenizer(directory: Path) -> None:
    content = json.loads((directory / "config.json").read_text())
    expected = {"hidden_size": 32, "head_dim": 8, "num_key_value_heads": 4, "sliding_window": 16, "vocab_size": 2000}
    expected |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": [2, 5], "max_position_embeddings": 2048}
    assert {name: content[name] for name in expected} == expected
    assert content["auto_map"] == {
        "AutoConfig": "configuration_llama.ForgatherLlamaConfig",  # transformers' Llama has no window
        "AutoModel": "modeling_llama.ForgatherLlamaModel",
        "AutoModelForCausalLM": "modeling_llama.ForgatherLlamaForCausalLM",
    }
    assert "dtype" not in content  # a model is loaded in the dtype of its weights
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    assert {name: getattr(config, name) for name in expected} == expected
    generation = GenerationConfig.from_pretrained(directory)
    assert (generation.bos_token_id, generation.pad_token_id, generation.eos_token_id) == (0, 1, [2, 5])


def test_the_card_has_architecture_options_and_loading_code(directory: Path) -> None:
    card = (directory / "README.md").read_text()
    assert "rotary positions, grouped-query attention" in card
    assert "| `sliding_window` | 16 | --sliding-window |" in card
    assert "- `rope.py`: Rotary position embedding" in card
    assert "from_pretrained(path, trust_remote_code=True)" in card
    assert "MIT" in (directory / "LICENSE").read_text()


def test_the_manifest_lists_every_file_with_its_origin(directory: Path) -> None:
    manifest = read_manifest(directory)
    assert manifest is not None
    assert {path.name for path in directory.iterdir()} == {*manifest.files, MANIFEST}
    assert manifest.files["rope.py"].origin == "forgather_core.parts.rope"
    assert manifest.files["tokenizer.json"].origin == "tokenizer bpe-2k"
    assert manifest.options["sliding_window"].origin == "--sliding-window"
    assert edited_files(directory, manifest.files) == {}
    (directory / "rope.py").write_text("")
    (directory / "norms.py").unlink()
    assert edited_files(directory, manifest.files) == {"rope.py": "edited", "norms.py": "missing"}


def test_the_vocabulary_may_not_be_smaller_than_the_tokenizer(small: Resolve, tmp_path: Path) -> None:
    found = prepare_directory(small(vocab_size=300), tmp_path / "model").path
    assert json.loads((found / "config.json").read_text())["vocab_size"] == 300
    with pytest.raises(ConfigurationError, match=r"--vocab-size: 200 is smaller than the 262 entries"):
        prepare_directory(small(vocab_size=200), tmp_path / "other")
    assert not (tmp_path / "other").exists()
