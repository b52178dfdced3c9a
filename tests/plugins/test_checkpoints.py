"""Weights of every definition are transferred from Forgather to transformers and back without any loss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from forgather_core.checkpoint import SaveReport, load_checkpoint, save_checkpoint
from forgather_core.checkpoint.write.companions import changes
from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import Registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve

from .native import NATIVE
from .tiny import CASES, DEFINITIONS, OPTIONS, ROPE, config_of, difference, randomize_weights, tiny, tokens

SMALL = {name: OPTIONS[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
TIES = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
EVERY = pytest.mark.parametrize("definition", DEFINITIONS)


@dataclass(frozen=True)
class How:
    """A way to save."""

    dtype: torch.dtype
    safetensors: bool
    limit: str

    def save(self, directory: Path, model: Any) -> SaveReport:
        saved = save_checkpoint(directory, model, safetensors=self.safetensors, max_shard_size=self.limit)
        assert (len(saved.files) > 2) == (self.limit != "5GB")
        return saved


WAYS = {
    "float32, bin": How(torch.float32, False, "5GB"),
    "float32, safetensors in shards": How(torch.float32, True, "20KB"),
    "bfloat16, safetensors": How(torch.bfloat16, True, "5GB"),
    "bfloat16, bin in shards": How(torch.bfloat16, False, "20KB"),
}
HOW = pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)

# Options that change buffers or parameters.
KINDS: dict[str, tuple[str, dict[str, Any]]] = CASES | {
    f"llama, {kind}": ("llama", {"rope_parameters": rope}) for kind, rope in ROPE.items()
}
KIND = pytest.mark.parametrize(("definition", "options"), KINDS.values(), ids=KINDS)

Export = Callable[..., Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return the exported directory of a tiny model, without weights. It is shared: write to a copy."""

    @cache
    def export(definition: str, **options: Any) -> Path:
        flags = DEFINITIONS[definition].options | SMALL | {"tokenizer": "bytes"} | options
        place = tmp_path_factory.mktemp("exported") / definition
        settings = resolve(
            find_configuration(f"{definition}/4M", Registry(), Path()), flags | {"output_dir": str(place)}
        )
        return construct(settings, project=place.parent).directory.path

    return export


@pytest.fixture
def directory(exported: Export, tmp_path: Path) -> Export:
    """Return a writable copy of an exported directory."""

    def copy(definition: str, **options: Any) -> Path:
        # The same name: loaders import the sources once for all directories with the same name.
        return Path(shutil.copytree(exported(definition, **options), tmp_path / "copy" / definition))

    return copy


def fresh(directory: Path, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Any:
    """Return a model from a directory's configuration and sources, with new random weights."""
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True, dtype=dtype)
    randomize_weights(model, seed)
    return model.eval()


def on_meta(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def by_transformers(directory: Path, **options: Any) -> Any:
    """Return the model that transformers loads, without missing or unexpected tensors."""
    model, said = AutoModelForCausalLM.from_pretrained(
        directory, trust_remote_code=True, output_loading_info=True, **options
    )
    assert not any(said.values()), said
    return model


@torch.no_grad()
def check_same(model: Any, other: Any) -> None:
    """Check that weights, non-persistent buffers, ties, trainability and logits equal those of another model."""
    pairs: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = [
        (model.state_dict(), other.state_dict()),
        (dict(model.named_buffers()), dict(other.named_buffers())),
    ]
    for actual, wanted in pairs:
        assert actual.keys() == wanted.keys()
        for name, tensor in actual.items():
            assert tensor.dtype == wanted[name].dtype, name
            assert torch.equal(tensor, wanted[name]), name
    assert model.dtype == other.dtype
    tied = other.config.tie_word_embeddings
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert (other.lm_head.weight is other.model.embed_tokens.weight) == tied
    trained = {name: parameter.requires_grad for name, parameter in other.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained
    ids = tokens(2, 20)
    assert difference(model(ids).logits, other(ids).logits) == 0


# --- Forgather to transformers ---------------------------------------------------------------------------------------


@pytest.mark.few(2)
@HOW
@TIES
@EVERY
def test_transformers_loads_what_we_save(definition: str, tied: bool, how: How, directory: Export) -> None:
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
def test_we_load_what_transformers_saves(
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


# --- into a model without memory -------------------------------------------------------------------------------------


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
def test_what_the_checkpoint_lacks_gets_initial_weights_on_meta(definition: str, assign: bool, tmp_path: Path) -> None:
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
def test_what_save_pretrained_writes_is_the_configuration_of_the_model(
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
