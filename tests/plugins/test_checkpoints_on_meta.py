"""Loading into models on meta, the saved configuration, and names and quantized weights of other programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from forgather_core.checkpoint import load_checkpoint, save_checkpoint
from forgather_core.checkpoint.write.companions import changes

from .checkpoints import EVERY, KIND, TIES, WAYS, Export, by_transformers, check_same, fresh, on_meta
from .native import NATIVE
from .tiny import config_of, tiny, tokens

# --- into a model on meta ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@KIND
def test_a_model_on_meta_becomes_the_saved_one(
    definition: str, options: dict[str, Any], dtype: torch.dtype, assign: bool, tmp_path: Path
) -> None:
    model = tiny(definition, **options).to(dtype)
    save_checkpoint(tmp_path, model, safetensors=dtype == torch.bfloat16)
    empty = on_meta(config_of(definition, **options), dtype)
    assert all(parameter.is_meta for parameter in empty.parameters())
    report = load_checkpoint(tmp_path, empty, device="cpu", assign=assign, strict=True)
    assert report.complete
    check_same(empty, model)
    empty.train()(tokens(1, 9), labels=tokens(1, 9)).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in empty.parameters())


@pytest.mark.few(10)
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@TIES
@EVERY
def test_a_model_on_meta_of_an_exported_directory_too(
    definition: str, tied: bool, assign: bool, directory: Export
) -> None:
    place = directory(definition, tie_word_embeddings=tied)
    model = fresh(place)
    save_checkpoint(place, model, max_shard_size="20KB")
    empty = on_meta(AutoConfig.from_pretrained(place, trust_remote_code=True))
    assert load_checkpoint(place, empty, device="cpu", assign=assign, strict=True).complete
    check_same(empty, model)


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@EVERY
def test_missing_weights_are_initialized_on_meta(definition: str, assign: bool, tmp_path: Path) -> None:
    model = tiny(definition)
    lacking = model.state_dict()
    norms = [name for name in lacking if "norm" in name and name.endswith("weight")]
    for name in norms:
        del lacking[name]
    torch.save(lacking, tmp_path / "pytorch_model.bin")
    empty = on_meta(config_of(definition))
    with pytest.warns(UserWarning, match="missing from"):
        report = load_checkpoint(tmp_path, empty, device="cpu", assign=assign)
    assert sorted(item.name for item in report.missing) == sorted(norms)
    for name, parameter in empty.state_dict().items():
        assert torch.equal(parameter, lacking.get(name, torch.ones_like(parameter))), name
    for name, buffer in empty.named_buffers():
        assert torch.equal(buffer, model.get_buffer(name)), name


# --- the configuration beside the weights ----------------------------------------------------------------------------


@pytest.mark.few(5)
@TIES
@EVERY
def test_a_directorys_configuration_is_that_of_its_models(definition: str, tied: bool, directory: Export) -> None:
    place = directory(definition, tie_word_embeddings=tied)

    def found(model: Any) -> list[str]:
        return changes(model, json.loads((place / "config.json").read_text()))

    model = fresh(place)
    assert found(model) == []
    save_checkpoint(place, model)
    assert found(by_transformers(place)) == []
    model.save_pretrained(place)
    assert found(model) == []
    loaded = by_transformers(place)
    assert found(loaded) == []
    loaded.to(torch.bfloat16).save_pretrained(place)
    assert found(loaded) == []
    assert found(fresh(place)) == []
    assert found(fresh(directory_of_another(place, vocab_size=300))) != []


def directory_of_another(place: Path, **values: Any) -> Path:
    """Return a copy with other values in its configuration."""
    other = Path(shutil.copytree(place, place.parent.parent / "another" / place.name))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | values))
    return other


@KIND
def test_save_pretrained_writes_the_configuration_of_the_model(
    definition: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny(definition, **options)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert changes(model, config) == []
    assert changes(type(model).from_pretrained(tmp_path), config) == []
    assert changes(type(model)(config_of(definition, **options)), config) == []


@pytest.mark.few(1)
@pytest.mark.parametrize("definition", NATIVE)
def test_a_directory_for_the_native_class_stays_one(definition: str, directory: Export) -> None:
    place = directory(definition, native=True)
    before = (place / "config.json").read_bytes()
    model = fresh(place)
    assert changes(model, json.loads(before)) == []
    for how in WAYS.values():
        assert how.save(place, model.to(how.dtype)).notes == ()
        assert (place / "config.json").read_bytes() == before
    check_same(by_transformers(place, dtype="auto"), model)
    native, said = AutoModelForCausalLM.from_pretrained(place, trust_remote_code=False, output_loading_info=True)
    assert not any(said.values())
    assert type(native).__module__.startswith("transformers.models.")


@EVERY
def test_another_models_configuration_is_replaced_and_reported(definition: str, directory: Export) -> None:
    place = directory(definition)
    model = fresh(directory_of_another(place, intermediate_size=40))
    saved = save_checkpoint(place, model)
    assert [note for note in saved.notes if "intermediate_size (expected 40, got 48)" in note] == list(saved.notes)
    assert len(saved.notes) == 1
    check_same(by_transformers(place), model)


# --- names and quantized weights of other programs -------------------------------------------------------------------

RENAMES = {
    "wrapped": lambda prefix, name: f"module._orig_mod.{name}",
    "wrapped layers": lambda prefix, name: name.replace("layers.0.", "layers.0._checkpoint_wrapped_module."),
    "base": lambda prefix, name: name.removeprefix(f"{prefix}."),
}


@pytest.mark.regression("R10")
@EVERY
@pytest.mark.parametrize("rename", RENAMES.values(), ids=RENAMES)
def test_other_names_of_the_same_weights_load(
    directory: Export, tmp_path: Path, definition: str, rename: Callable[[str, str], str]
) -> None:
    place = directory(definition)
    model, other = fresh(place), fresh(place, 1)
    prefix = model.base_model_prefix
    torch.save({rename(prefix, n): t for n, t in model.state_dict().items()}, tmp_path / "pytorch_model.bin")
    report = load_checkpoint(tmp_path, other)
    assert report.complete
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.regression("R7")
@EVERY
def test_fp8_weights_with_blocks_load(directory: Export, tmp_path: Path, definition: str) -> None:
    place = directory(definition)
    model, other = fresh(place), fresh(place, 1)
    stored, expected = {}, {}
    for name, tensor in model.state_dict().items():
        expected[name] = stored[name] = tensor
        if tensor.dim() == 2 and "layers" in name:
            blocks = [-(-size // 16) for size in tensor.shape]
            scale = torch.rand(blocks) * 1e-3 + 1e-4
            factors = scale.repeat_interleave(16, 0).repeat_interleave(16, 1)[: tensor.shape[0], : tensor.shape[1]]
            stored[name] = (tensor / factors).clamp(-448, 448).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale
            expected[name] = stored[name].float() * factors
    torch.save(stored, tmp_path / "pytorch_model.bin")
    quantization = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    assert load_checkpoint(tmp_path, other).complete
    for name, tensor in expected.items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-6, atol=0)
