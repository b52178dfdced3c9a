"""Weights of every definition are transferred from Forgather to transformers and back without any loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from forgather_core.checkpoint import load_checkpoint

from .checkpoints import EVERY, HOW, TIES, WAYS, Export, How, by_transformers, check_same, fresh
from .tiny import tiny

# --- Forgather to transformers ---------------------------------------------------------------------------------------


@pytest.mark.few(2)
@HOW
@TIES
@EVERY
def test_transformers_loads_a_checkpoint_of_forgather(definition: str, tied: bool, how: How, directory: Export) -> None:
    place = directory(definition, tie_word_embeddings=tied)
    before = {file.name: file.read_bytes() for file in place.iterdir()}
    model = fresh(place, dtype=how.dtype)
    saved = how.save(place, model)
    assert saved.notes == ()
    assert saved.tensors == len(model.state_dict()) - tied
    after = {file.name: file.read_bytes() for file in place.iterdir() if file.name not in saved.files}
    assert after == before  # the configuration is its own, and says nothing of a dtype
    check_same(by_transformers(place, dtype="auto"), model)


@pytest.mark.slow
@pytest.mark.parametrize("to", WAYS)
@EVERY
def test_a_save_over_transformers_own_is_loaded_in_the_new_dtype(definition: str, to: str, directory: Export) -> None:
    place, how = directory(definition), WAYS[to]
    first = torch.bfloat16 if how.dtype == torch.float32 else torch.float32
    fresh(place, dtype=first).save_pretrained(place)
    assert json.loads((place / "config.json").read_text())["dtype"] == str(first).removeprefix("torch.")
    model = fresh(place, 1, dtype=how.dtype)
    saved = how.save(place, model)
    assert saved.notes == ()  # it is the same model
    config = json.loads((place / "config.json").read_text())
    assert config["dtype"] == str(how.dtype).removeprefix("torch.")
    weights = {file.name for file in place.iterdir() if file.suffix in (".safetensors", ".bin")}
    assert weights | {file.name for file in place.glob("*.index.json")} == set(saved.files)
    check_same(by_transformers(place), model)


@pytest.mark.few(3)
@pytest.mark.parametrize("installed", [False, True], ids=["from a directory", "installed"])
@EVERY
def test_a_new_directory_gets_configuration_and_sources(
    definition: str, installed: bool, exported: Export, tmp_path: Path
) -> None:
    how = WAYS["bfloat16, safetensors"]
    old, place = exported(definition), tmp_path / "new" / definition
    model = tiny(definition).to(how.dtype) if installed else fresh(old, dtype=how.dtype)
    how.save(place, model)
    assert (place / f"modeling_{definition}.py").is_file()
    if not installed:
        assert {file.name: file.read_bytes() for file in place.glob("*.py")} == {
            file.name: file.read_bytes() for file in old.glob("*.py")
        }
    config, exports = (json.loads((directory / "config.json").read_text()) for directory in (place, old))
    assert config["dtype"] == "bfloat16"
    assert config["architectures"] == exports["architectures"]
    assert config["auto_map"].items() <= exports["auto_map"].items()
    assert {"AutoConfig", "AutoModelForCausalLM"} <= config["auto_map"].keys()
    assert (place / "generation_config.json").is_file()
    check_same(by_transformers(place), model)
    again = how.save(place, model)
    assert again.notes == ()
    assert json.loads((place / "config.json").read_text()) == config
    check_same(by_transformers(place), model)


@pytest.mark.few(2)
@EVERY
def test_building_in_a_directory_with_weights_gives_initial_weights(definition: str, directory: Export) -> None:
    place = directory(definition)

    def built() -> Any:
        torch.manual_seed(3)
        config = AutoConfig.from_pretrained(place, trust_remote_code=True)
        return AutoModelForCausalLM.from_config(config, trust_remote_code=True).eval()

    before = built()
    for how in WAYS.values():
        how.save(place, fresh(place, dtype=how.dtype))
        check_same(built(), before)


# --- transformers to Forgather ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("wrote", ["save_pretrained", "save_pretrained in shards", "torch.save"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@TIES
@EVERY
def test_forgather_loads_a_checkpoint_of_transformers(
    definition: str, tied: bool, dtype: torch.dtype, wrote: str, directory: Export
) -> None:
    place = directory(definition, tie_word_embeddings=tied)
    model, other = fresh(place, dtype=dtype), fresh(place, 1, dtype=dtype)
    if wrote == "torch.save":  # as older releases did: a tied tensor stands there under both names
        torch.save(model.state_dict(), place / "pytorch_model.bin")
    else:
        model.save_pretrained(place, max_shard_size="20KB" if wrote.endswith("shards") else "5GB")
    assert (place / "model.safetensors.index.json").exists() == wrote.endswith("shards")
    report = load_checkpoint(place, other, strict=True)
    assert report.complete
    assert sorted(report.loaded) == sorted(model.state_dict())
    check_same(other, model)
