"""`--native`: directories that the native transformers class also loads, only if both compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from forgather_llama.modeling_llama import LlamaModel
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from forgather_core.commands.construct import construct
from forgather_core.definitions.registry import Registry
from forgather_core.errors import ConfigurationError, DirectoryError, ExportError
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import ResolvedModel

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
IDS = torch.arange(3, 43)[None]
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32, "factor": 2.0}
GRANTED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, grouped, tied, wide heads": (
        "llama",
        {"num_key_value_heads": 2, "tie_word_embeddings": True, "head_dim": 16},
    ),
    "llama, one key/value head": ("llama", {"num_key_value_heads": 1}),
    "llama, dynamic RoPE": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    "llama, longrope": (
        "llama",
        {"rope_parameters": LONG | {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0]}},
    ),
    "mistral": ("mistral", {"sliding_window": 5}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "qwen3": ("qwen3", {}),
    "qwen3, window": ("qwen3", {"sliding_window": 5}),
    "qwen3, half window": ("qwen3", {"sliding_window": 5, "max_window_layers": 1}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 2}),
    "smollm3, window": ("smollm3", {"sliding_window": 5, "no_rope_layer_interval": 2}),
}


def settings_of(definition: str, **flags: Any) -> ResolvedModel:
    return resolve(
        find_configuration(definition, Registry(), Path()), SMALL | {"tokenizer": "bytes", "native": True} | flags
    )


@pytest.mark.few(4)
@pytest.mark.parametrize("case", GRANTED)
@torch.no_grad()
def test_loads_with_the_native_and_the_exported_class(case: str, tmp_path: Path) -> None:
    definition, options = GRANTED[case]
    made = construct(settings_of(definition, device="cpu", save_checkpoint=True, **options), project=tmp_path)
    directory = made.directory.path
    native = AutoModelForCausalLM.from_pretrained(directory)
    exported = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
    assert type(native).__module__.startswith("transformers.models.")
    assert type(exported).__module__.startswith("transformers_modules.")
    assert made.directory.manifest.native == type(native).__name__ == type(exported).__name__
    assert (native.eval()(IDS).logits - exported.eval()(IDS).logits).abs().max() <= 1e-5
    for model in (exported, native):  # saved by either class, it stays native
        model.save_pretrained(tmp_path / "again")
        assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "again")) is type(native)
    assert "native" not in json.loads((directory / "config.json").read_text())


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a llama with a window": ("llama", {"sliding_window": 8}, "does not support sliding_window \\(mistral does\\)"),
    "no such class": ("deepone", {}, "transformers has no class that computes 'deepone'"),
    "a rule of the class": (
        "llama",
        {"hidden_size": 33, "head_dim": 8},
        r"transformers' LlamaForCausalLM rejects these options: The hidden size \(33\) is not a multiple",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_has_a_reason_and_writes_nothing(case: str, tmp_path: Path) -> None:
    definition, options, reason = REFUSED[case]
    with pytest.raises(ConfigurationError, match=f"--native: .*{reason}"):
        construct(settings_of(definition, **options), project=tmp_path)
    assert not list(tmp_path.iterdir())


def test_detects_different_logits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare = LlamaModel.prepare
    monkeypatch.setattr(LlamaModel, "prepare", lambda self, x, p: prepare(self, x, p) * 1.01)
    with pytest.raises(
        ConfigurationError,
        match=r"a different model: the logits of a small copy have a relative difference of \d",
    ):
        construct(settings_of("llama"), project=tmp_path)


def test_detects_a_renamed_weight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    post_init = LlamaModel.post_init

    def renamed(self: Any) -> None:
        self.final_norm = self.norm
        post_init(self)

    monkeypatch.setattr(LlamaModel, "post_init", renamed)
    with pytest.raises(ConfigurationError, match="--native: transformers' LlamaForCausalLM rejects these options"):
        construct(settings_of("llama"), project=tmp_path)


def test_names_native_as_a_difference(tmp_path: Path) -> None:
    construct(settings_of("llama", native=False), project=tmp_path)
    with pytest.raises(DirectoryError, match=r"native \(was None, now LlamaForCausalLM\)"):
        construct(settings_of("llama"), project=tmp_path)
    construct(settings_of("llama"), project=tmp_path, refresh=True)
    assert construct(settings_of("llama"), project=tmp_path).directory.state == "reused"


NAMES = {"a llama with a window": ("llama", {"sliding_window": 8}), **{case: REFUSED[case][:2] for case in REFUSED}}


def names_in(directory: Path) -> set[str]:
    content = json.loads((directory / "config.json").read_text())
    return {*content["architectures"], *(target.rpartition(".")[2] for target in content["auto_map"].values())}


@pytest.mark.regression("E4")
@pytest.mark.parametrize("case", NAMES)
def test_renames_classes_that_transformers_cannot_express(case: str, tmp_path: Path) -> None:
    definition, options = NAMES[case]
    made = construct(settings_of(definition, native=False, device="meta", **options), project=tmp_path)
    directory = made.directory.path
    model = made.model
    names = names_in(directory)
    assert names == {type(model).__name__, type(model.config).__name__, type(model.model).__name__}
    assert not any(hasattr(transformers, name) for name in names)
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    for auto_class, made_before in ((AutoModelForCausalLM, model), (AutoModel, model.model)):
        with torch.device("meta"):
            assert type(auto_class.from_config(config)).__name__ == type(made_before).__name__
    with torch.device("cpu"):
        fresh = AutoModelForCausalLM.from_config(config)
    fresh.save_pretrained(tmp_path / "again")
    assert names_in(tmp_path / "again") == names
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert torch.equal(again.eval()(IDS).logits, fresh.eval()(IDS).logits)


@pytest.mark.few(2)
@pytest.mark.parametrize("case", GRANTED)
def test_keeps_the_names_of_classes_that_transformers_can_express(case: str, tmp_path: Path) -> None:
    definition, options = GRANTED[case]
    made = construct(settings_of(definition, native=False, device="meta", **options), project=tmp_path)
    assert all(hasattr(transformers, name) for name in names_in(made.directory.path))


def test_renames_only_the_models_classes(tmp_path: Path) -> None:
    from forgather_core.export.own_names import rename_classes
    from forgather_core.export.sources import SourceFile, Sources

    own = b"""import transformers
from . import modeling_x
from .modeling_x import LlamaModel as Base


class LlamaConfig(transformers.LlamaConfig):
    '''A LlamaConfig.'''

    base: Base = modeling_x.LlamaModel
"""
    foreign = b"from transformers import LlamaConfig\n\nX = LlamaConfig\n"
    files = tuple(
        SourceFile(f"{name}.py", name, tmp_path / f"{name}.py", text, "")
        for name, text in {"own": own, "foreign": foreign, "modeling_x": b"class LlamaModel:\r\n    pass\r\n"}.items()
    )
    names = {"LlamaConfig": "OwnConfig", "LlamaModel": "OwnModel"}
    renamed = {file.module: file.text for file in rename_classes(Sources(files, ()), names).files}
    expected = own.replace(b"class LlamaConfig", b"class OwnConfig").replace(b"import LlamaModel", b"import OwnModel")
    assert renamed["own"] == expected.replace(b"modeling_x.LlamaModel", b"modeling_x.OwnModel")
    assert renamed["foreign"] == foreign
    assert renamed["modeling_x"] == b"class OwnModel:\r\n    pass\r\n"
    both = b"from transformers import LlamaModel\n\n\nclass LlamaModel(LlamaModel):\n    pass\n"
    file = SourceFile("both.py", "both", tmp_path / "both.py", both, "")
    with pytest.raises(ExportError, match="'LlamaModel' names a class of the model and a class of another package"):
        rename_classes(Sources((file,), ()), names)
