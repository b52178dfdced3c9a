"""A configuration of the model under test is the one that transformers loads, and its model is of the same class."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import registry
from forgather_core.errors import CheckError
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve


def loaded(subject: ModelUnderTest) -> transformers.PreTrainedConfig:
    config: transformers.PreTrainedConfig = transformers.AutoConfig.from_pretrained(
        subject.workdir, trust_remote_code=True
    )
    return config


def test_a_directory_with_code(tmp_path: Path) -> None:
    resolved = resolve(find_configuration("llama/4M", registry(), tmp_path), {"output_dir": tmp_path / "model"})
    subject = ModelUnderTest(construct(resolved).directory.path, tmp_path / "work", resolved=resolved)
    expected = loaded(subject)
    for config in (subject.config(), subject.constructed({})):
        assert type(config) is type(expected)
        assert config.to_dict() == expected.to_dict()
        assert config.name_or_path == str(subject.workdir)
    assert subject.config(hidden_size=8).hidden_size == 8
    first, second = subject.fresh_model(), subject.fresh_model()
    automatic = transformers.AutoModelForCausalLM.from_config(expected, trust_remote_code=True)
    assert type(first) is type(second) is type(automatic)


@pytest.mark.parametrize("config", [transformers.ViTConfig(), transformers.T5Config()], ids=lambda one: one.model_type)
def test_other_models_are_refused(config: transformers.PreTrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckError, match=f"no causal language model of model_type '{config.model_type}'"):
        ModelUnderTest(tmp_path / "model", tmp_path / "work")


def test_a_read_only_directory_and_the_largest_seed(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    transformers.LlamaConfig(num_hidden_layers=2).save_pretrained(directory)
    for path in (directory / "config.json", directory):
        path.chmod(path.stat().st_mode & ~0o222)
    subject = ModelUnderTest(directory, tmp_path / "work", seed=2**63 - 1)
    for path in (subject.workdir, *subject.workdir.iterdir()):
        assert path.stat().st_mode & 0o200
    assert subject.tokens(2).shape[0] == 2
    directory.chmod(0o755)


@pytest.mark.parametrize(
    "config",
    [
        transformers.Mamba2Config(num_hidden_layers=2, time_step_limit=(0.0, float("inf"))),  # is text in JSON
        transformers.LlamaConfig(num_hidden_layers=2),
    ],
    ids=lambda config: config.model_type,
)
def test_a_directory_of_transformers(config: transformers.PreTrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path / "model")
    subject = ModelUnderTest(tmp_path / "model", tmp_path / "work", full=True)
    expected = loaded(subject)
    for one in (subject.config(), subject.constructed({})):
        assert type(one) is type(config)
        assert one.to_dict() == expected.to_dict()
