"""A wrapped model is saved and loaded by the names of the innermost model, in any nesting of wrappers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel

from forgather_core.checkpoint import Checkpoint, convert_checkpoint, inspect_checkpoint, load_checkpoint
from forgather_core.checkpoint import save_checkpoint as save
from forgather_core.errors import CheckpointError

Wrap = Callable[[Any], nn.Module]


def llama(seed: int = 0, *, tied: bool = True) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=tied, **sizes))


def read(path: Path) -> dict[str, Tensor]:
    with Checkpoint.open(path) as checkpoint:
        return {name: tensor.tensor() for name, tensor in checkpoint.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def saved_by_itself(path: Path, model: Any) -> dict[str, Tensor]:
    save(path, model, safetensors=True)
    return read(path)


def compiled_layer(model: Any) -> nn.Module:
    model.model.layers[0] = torch.compile(model.model.layers[0])
    return model  # type: ignore[no-any-return]


def compiled_in_place(model: Any) -> nn.Module:
    model.compile()
    return model  # type: ignore[no-any-return]


def checkpointed_layer(model: Any) -> nn.Module:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model.model.layers[1] = checkpoint_wrapper(model.model.layers[1])
    return model  # type: ignore[no-any-return]


WRAPS: dict[str, Wrap] = {
    "compile": torch.compile,
    "DataParallel": nn.DataParallel,
    "compiled in DataParallel": lambda model: nn.DataParallel(torch.compile(model)),  # type: ignore[arg-type]
    "compiled layer": compiled_layer,
    "compiled in place": compiled_in_place,
    "checkpointed layer": checkpointed_layer,
}


@pytest.mark.few(3)
@pytest.mark.regression("wrapped")
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_wrapped_model_is_saved_as_the_innermost_model(tmp_path: Path, wrap: Wrap) -> None:
    expected = saved_by_itself(tmp_path / "plain", llama())
    save(tmp_path / "wrapped", wrap(llama()), safetensors=True)
    assert same(read(tmp_path / "wrapped"), expected)
    config = json.loads((tmp_path / "wrapped" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "wrapped", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert same(model.state_dict(), llama().state_dict())


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_plain_checkpoint_loads_into_a_wrapped_model(tmp_path: Path, wrap: Wrap) -> None:
    saved_by_itself(tmp_path, llama(1))
    model = llama(2)
    report = load_checkpoint(tmp_path, wrap(model), strict=True)
    assert set(report.loaded) == set(llama().state_dict())  # by the names of the innermost model
    assert [p.tolist() for p in model.parameters()] == [p.tolist() for p in llama(1).parameters()]
    model.post_init()
    assert [p.tolist() for p in model.parameters()] == [p.tolist() for p in llama(1).parameters()]


LAYERS = [compiled_layer, checkpointed_layer]
AROUND = [torch.compile, nn.DataParallel]


@pytest.mark.few(6)
@pytest.mark.parametrize("layers", [[], [compiled_layer], [checkpointed_layer], [compiled_layer, checkpointed_layer]])
@pytest.mark.parametrize(
    "around", [list(p) for n in range(3) for p in permutations([torch.compile, nn.DataParallel], n)]
)
def test_any_nesting(tmp_path: Path, layers: list[Wrap], around: list[Wrap]) -> None:
    model, other = llama(3), llama(4)
    for wrap in (*layers, *around):
        model, other = wrap(model), wrap(other)  # type: ignore[assignment]
    report = save(tmp_path, model, safetensors=True)
    assert same(read(tmp_path), {n: t for n, t in llama(3).state_dict().items() if n != "lm_head.weight"})
    assert len(report.notes) == len({*layers, *around} - ({compiled_layer} if torch.compile in around else set()))
    loaded = load_checkpoint(tmp_path, other, strict=True)
    assert loaded.tensors == report.tensors
    assert [p.tolist() for p in model.parameters()] == [p.tolist() for p in other.parameters()]


def test_own_module_named_like_a_wrapper_keeps_its_name(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    save(tmp_path, torch.compile(Own()), safetensors=True)  # type: ignore[arg-type]
    assert set(read(tmp_path)) == {"module.weight", "module.bias"}


# --- base models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda model: model, torch.compile, nn.DataParallel], ids=["plain", "compile", "DP"])
def test_base_checkpoint_into_full_model_and_the_reverse(tmp_path: Path, wrap: Wrap) -> None:
    whole, headless = llama(1, tied=False), LlamaModel(llama(1).config)
    save(tmp_path / "whole", wrap(whole), safetensors=True)
    save(tmp_path / "base", wrap(whole.model), safetensors=True)
    assert "layers.0.mlp.up_proj.weight" in read(tmp_path / "base")
    with pytest.warns(UserWarning, match="1 tensor of .* is not in the model: lm_head.weight"):
        report = load_checkpoint(tmp_path / "whole", wrap(headless))
    assert not report.missing
    assert same(headless.state_dict(), whole.model.state_dict())
    other = llama(2, tied=False)
    with pytest.warns(UserWarning, match="1 tensor of the model is missing from .*: lm_head.weight"):
        load_checkpoint(tmp_path / "base", wrap(other))
    assert same(other.model.state_dict(), whole.model.state_dict())


# --- PEFT ------------------------------------------------------------------------------------------------------------


def adapted(model: Any, **how: Any) -> Any:
    peft = pytest.importorskip("peft")
    how = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "r": 2} | how
    made = peft.get_peft_model(model, peft.LoraConfig(**how))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.fill_(0.5)
    return made


@pytest.mark.regression("wrapped")
@pytest.mark.parametrize("how", [{}, {"modules_to_save": ["lm_head"]}, {"target_modules": "all-linear"}], ids=str)
def test_peft_model_is_saved_without_adapters_with_a_warning(tmp_path: Path, how: dict[str, Any]) -> None:
    expected = saved_by_itself(tmp_path / "plain", llama(tied=False))
    with pytest.warns(UserWarning, match="PEFT adapters are not saved, only the model that they adapt"):
        report = save(tmp_path / "peft", torch.compile(adapted(llama(tied=False), **how)), safetensors=True)
    assert same(read(tmp_path / "peft"), expected)
    assert (report.tensors, json.loads((tmp_path / "peft" / "config.json").read_text())["architectures"]) == (
        len(expected),
        ["LlamaForCausalLM"],
    )


def test_checkpoint_without_adapters_loads_into_a_peft_model_and_keeps_its_adapters(tmp_path: Path) -> None:
    saved_by_itself(tmp_path, llama(1))
    model = adapted(llama(2))
    report = load_checkpoint(tmp_path, model, strict=True)
    assert not report.missing
    assert all(bool((p == 0.5).all()) for n, p in model.named_parameters() if "lora_" in n)
    assert same(model.unload().state_dict(), llama(1).state_dict())


def test_merged_adapters_are_refused(tmp_path: Path) -> None:
    model = adapted(llama())
    model.merge_adapter()
    with pytest.raises(CheckpointError, match=r"adapters .* are merged into its weights: call unmerge_adapter\(\)"):
        save(tmp_path / "x", model)
    saved_by_itself(tmp_path / "plain", llama())
    with pytest.raises(CheckpointError, match=r"adapters .* are merged"):
        load_checkpoint(tmp_path / "plain", model)
    model.unmerge_adapter()
    with pytest.warns(UserWarning, match="adapters"):
        save(tmp_path / "x", model)


# --- files with prefixes, by the other commands ----------------------------------------------------------------------


def test_files_with_prefixes_are_inspected_converted_and_loaded(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    torch.save({f"module._orig_mod.{n}": t for n, t in llama(1).state_dict().items()}, tmp_path / "a/pytorch_model.bin")
    assert inspect_checkpoint(tmp_path / "a")["tensors"][0]["name"].startswith("module._orig_mod.")
    convert_checkpoint(tmp_path / "a", tmp_path / "b", format="safetensors")
    for place in ("a", "b"):
        model = llama(2)
        report = load_checkpoint(tmp_path / place, torch.compile(model), strict=True)
        assert any("without 'module.'" in note for note in report.notes)
        assert same(model.state_dict(), llama(1).state_dict())


# --- several processes -----------------------------------------------------------------------------------------------

SCRIPT = """
    import datetime, json, os, sys, warnings
    import torch, torch.distributed as dist
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy
    from transformers import LlamaConfig, LlamaForCausalLM
    from forgather_core.checkpoint import load_checkpoint, save_checkpoint
    from forgather_core.errors import CheckpointError

    warnings.simplefilter("ignore")
    kind, place, rank, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    store = dist.FileStore(f"{place}/store", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60))

    def model(seed):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
        made = LlamaForCausalLM(LlamaConfig(vocab_size=32, tie_word_embeddings=True, **sizes))
        if kind == "ddp":
            return torch.nn.parallel.DistributedDataParallel(made)
        if kind == "fsdp":
            return FSDP(made, device_id=torch.device("cpu"))
        policy = ModuleWrapPolicy({type(made.model.layers[0])})
        return FSDP(made, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu"))

    one, two = model(0), model(1)
    report = save_checkpoint(f"{place}/saved", one, safetensors=True)
    dist.barrier()
    loaded = load_checkpoint(f"{place}/saved", two, strict=True)
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        same = torch.equal(one(input_ids=tokens).logits, two(input_ids=tokens).logits)
    refused = ""
    try:
        save_checkpoint("/proc/none/x", one)
    except CheckpointError as error:
        refused = str(error)
    with open(f"{place}/{rank}.json", "w") as stream:
        json.dump([list(report.files), loaded.tensors, same, "/proc/none/x cannot be written" in refused], stream)
    dist.barrier()
    os._exit(0)
"""


def several(tmp_path: Path, kind: str, size: int) -> list[Any]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(script), kind, str(tmp_path)]
    running = [subprocess.Popen([*command, str(rank), str(size)], env=environment) for rank in range(size)]
    try:
        assert [process.wait(timeout=120) for process in running] == [0] * size
    finally:
        for process in running:
            process.kill()
    return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(size)]


@pytest.mark.few(0, slow=1)
@pytest.mark.parametrize(("kind", "size"), [("ddp", 2), ("fsdp", 1), ("fsdp", 2), ("fsdp of layers", 2)])
def test_processes_save_once_and_all_load(tmp_path: Path, kind: str, size: int) -> None:
    found = several(tmp_path, kind, size)
    for rank, (files, count, equal, refused) in enumerate(found):
        writes = rank == 0 or kind != "ddp"
        assert (files, count, equal, refused) == (["model.safetensors"] if writes else [], 20, True, writes)
    expected = {n: t for n, t in llama(0).state_dict().items() if n != "lm_head.weight"}
    assert same(read(tmp_path / "saved"), expected)


@pytest.mark.parametrize("wrong", [None, {"weight": torch.zeros(1)}, LlamaForCausalLM])
def test_what_is_not_a_module_is_refused_and_nothing_is_written(tmp_path: Path, wrong: Any) -> None:
    save(tmp_path / "model", llama())
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got "):
        save(tmp_path / "new", wrong)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got "):
        load_checkpoint(tmp_path / "model", wrong)
    assert not (tmp_path / "new").exists()
