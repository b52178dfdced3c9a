"""Names with the prefixes of wrappers, or without that of a base model, match; other mismatches are explained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel

from forgather_core.checkpoint import load_checkpoint
from forgather_core.errors import CheckpointError

WRAPPERS = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]


class Net(nn.Module):
    """Layers in a list, a tied head, and a buffer."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 6, bias=False)
        self.register_buffer("steps", torch.randn(3))
        if tied:
            self.head.weight = self.embed.weight


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, path / "pytorch_model.bin")
    return path


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def llama(*, tied: bool = False, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=tied, **sizes))


RENAMES: dict[str, Callable[[str], str]] = {
    "module": lambda name: f"module.{name}",
    "_orig_mod": lambda name: f"_orig_mod.{name}",
    "PEFT": lambda name: f"base_model.model.{name}",
    "compiled, in DDP": lambda name: f"module._orig_mod.{name}",
    "a compiled model within": lambda name: name.replace("model.", "model._orig_mod."),
    "FSDP": lambda name: "_fsdp_wrapped_module." + name.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
    "checkpointed layers": lambda name: name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
    "all": lambda name: "module._orig_mod.base_model.model." + name.replace(
        "layers.1.", "layers.1._fsdp_wrapped_module._checkpoint_wrapped_module."
    ),
    "a base model": lambda name: name.removeprefix("model."),
    "a compiled base model": lambda name: "_orig_mod." + name.removeprefix("model."),
}  # fmt: skip


@pytest.mark.regression("R10")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rename", RENAMES.values(), ids=RENAMES)
def test_names_of_wrapped_models(tmp_path: Path, rename: Callable[[str], str], tied: bool) -> None:
    model, other = llama(tied=tied), llama(tied=tied, seed=1)
    report = load_checkpoint(saved(tmp_path, {rename(n): t for n, t in model.state_dict().items()}), other)
    assert same(model, other)
    assert report.complete
    assert len(report.notes) >= 1


@pytest.mark.parametrize("rename", [lambda n: n, lambda n: n.removeprefix("model."), lambda n: f"module.{n}"])
def test_base_model_loads_a_full_checkpoint(tmp_path: Path, rename: Callable[[str], str]) -> None:
    model, other = llama(), LlamaModel(llama().config)
    report = load_checkpoint(saved(tmp_path, {rename(n): t for n, t in model.state_dict().items()}), other)
    assert same(model.model, other)
    assert [name.removeprefix("module.") for name in report.unexpected] == ["lm_head.weight"]


@pytest.mark.regression("R10")
@pytest.mark.parametrize("tied", [False, True])
def test_full_model_loads_a_base_checkpoint_like_transformers(tmp_path: Path, tied: bool) -> None:
    model, other = llama(tied=tied), llama(tied=tied, seed=1)
    head = other.lm_head.weight.clone()
    model.model.save_pretrained(tmp_path)
    report = load_checkpoint(tmp_path, other)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert same(theirs.model, other.model)
    assert [item.name for item in report.missing] == ([] if tied else ["lm_head.weight"])
    assert torch.equal(other.lm_head.weight, model.model.embed_tokens.weight if tied else head)


@given(st.data())
def test_any_wrappers_anywhere_in_a_name(data: st.DataObject) -> None:
    from forgather_core.checkpoint.read.names import match_names

    places = [*Net().state_dict(), "module.inner.weight", "_orig_mod"]
    stored: dict[str, str] = {}
    for place in places:
        parts: list[str] = []
        for part in place.split("."):
            parts += [*data.draw(st.lists(st.sampled_from(WRAPPERS), max_size=3)), part]
        front = data.draw(st.sampled_from(["", "base_model.model.", "module.base_model.model."]))
        stored[front + ".".join(parts)] = place
    if "_orig_mod" in places:  # a name that consists of wrappers matches only exactly
        stored = {name: place for name, place in stored.items() if place != "_orig_mod"} | {"_orig_mod": "_orig_mod"}
    assert match_names(stored, places, "", lambda a, b: False, Path("x")).names == stored


@given(
    st.lists(st.sampled_from([*WRAPPERS, "a", "b", "model", "base_model", "weight"]), min_size=1, max_size=5), st.data()
)
def test_matching_names_are_never_changed(parts: list[str], data: st.DataObject) -> None:
    from forgather_core.checkpoint.read.names import match_names

    name = ".".join(parts)
    others = [f"x.{name}", f"{name}.x"]
    assert match_names(
        [name], [*others, name], data.draw(st.sampled_from(["", "model"])), lambda a, b: False, Path("x")
    ).names == {name: name}


def test_two_stored_names_for_one_tensor_are_refused(tmp_path: Path) -> None:
    model = Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = Net().state_dict()
    both = state | {"module.layers.0.weight": torch.zeros(4, 4)}
    with pytest.raises(
        CheckpointError, match=r"'layers.0.weight' and 'module.layers.0.weight' both match 'layers.0.weight'"
    ):
        load_checkpoint(saved(tmp_path, both), model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    load_checkpoint(saved(tmp_path, state | {"module.layers.0.weight": state["layers.0.weight"].clone()}), model)
    assert torch.equal(model.layers[0].weight, state["layers.0.weight"])


def test_a_wrapped_model_loads_plain_names(tmp_path: Path) -> None:
    model, other = Net(), nn.DataParallel(Net())
    report = load_checkpoint(saved(tmp_path, model.state_dict()), other)
    assert same(model, other.module)
    assert report.notes == ("names of 7 tensors matched with 'module.' of the model",)


def test_tied_names_and_buffers_under_a_prefix(tmp_path: Path) -> None:
    model, other = Net(tied=True), Net(tied=True)
    state = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items() if name != "embed.weight"}
    report = load_checkpoint(saved(tmp_path, state), other)
    assert same(model, other)
    assert report.complete


# --- what does not match ---------------------------------------------------------------------------------------------


@pytest.mark.regression("R10")
@pytest.mark.parametrize(
    ("rename", "advice"),
    [
        (lambda n: f"student.{n}", r"7 tensors would match: rename them without 'student\.'"),
        (lambda n: f"a.b.{n}", r"rename them without 'a\.b\.'"),
        (lambda n: f"z{n}z", "load a checkpoint of this model, or rename the tensors"),
    ],
)
def test_no_matching_name_is_an_error_with_advice(tmp_path: Path, rename: Callable[[str], str], advice: str) -> None:
    with pytest.raises(CheckpointError, match=advice):
        load_checkpoint(saved(tmp_path, {rename(n): t for n, t in Net().state_dict().items()}), Net())


def test_missing_prefix_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"7 tensors would match: rename them with the prefix '0\.'"):
        load_checkpoint(saved(tmp_path, Net().state_dict()), nn.Sequential(Net()))


@pytest.mark.regression("R10")
def test_few_matching_names_are_reported_with_the_reason(tmp_path: Path) -> None:
    state = Net().state_dict()
    state = {name if name == "steps" else f"student.{name}": tensor for name, tensor in state.items()}
    with pytest.warns(UserWarning, match=r"only 1 of the model's 7 tensors .*rename them without 'student\.'"):
        load_checkpoint(saved(tmp_path, state), Net())


def adapter(*, base: bool) -> dict[str, Tensor]:
    """Return Net's tensors with PEFT's names, with LoRA on one layer."""
    prefix = "base_model.model."
    lora = {f"{prefix}layers.0.lora_{x}.default.weight": torch.randn(4, 4) for x in "AB"}
    state = {prefix + n.replace("layers.0.", "layers.0.base_layer."): t for n, t in Net().state_dict().items()}
    return lora | state if base else lora | {prefix + "head.weight": torch.randn(6, 4)}


@pytest.mark.regression("R10")
def test_adapter_without_base_weights_is_recognized(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is an adapter \(.*lora_.*merge_and_unload"):
        load_checkpoint(saved(tmp_path, adapter(base=False)), Net())
    (tmp_path / "pytorch_model.bin").unlink()
    save_file(adapter(base=False), tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds a PEFT adapter \(adapter_model.safetensors\).*merge_and_unload"):
        load_checkpoint(tmp_path, Net())


def test_adapters_beside_their_weights_are_reported(tmp_path: Path) -> None:
    model = Net()
    with pytest.warns(UserWarning, match=r"2 tensors of an adapter in .* not applied.*merge_and_unload"):
        report = load_checkpoint(saved(tmp_path, adapter(base=True)), model)
    assert (report.missing, len(report.loaded)) == ((), 7)
