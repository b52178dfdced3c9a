"""A configuration alone is a model directory with fresh weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaConfig

import forgather
from forgather_core.checks.shared.configuration_file import model_directory
from forgather_core.errors import CheckError


def test_a_configuration_is_verified(tmp_path: Path) -> None:
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    file = (tmp_path / "config.json").rename(tmp_path / "llama.json")
    result = forgather.verify(file, checks=["causality"])
    assert (result.passed, result.failed, result.to_dict()["directory"]) == (("causality",), (), str(file))


def test_a_directory_is_itself(tmp_path: Path) -> None:
    with model_directory(tmp_path) as found:
        assert found == tmp_path


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_broken_file_is_an_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_text(text)
    with pytest.raises(CheckError, match=r"broken\.json"), model_directory(file):
        pass


def test_a_config_json_is_that_of_its_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with model_directory(tmp_path / "config.json") as found:
        assert found == tmp_path


def test_a_configuration_that_names_code_requires_its_directory(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"auto_map": {}}')
    with pytest.raises(CheckError, match="name the directory"), model_directory(file):
        pass
