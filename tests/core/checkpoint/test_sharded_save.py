"""Processes of a device mesh save together: each writes files of its own, and all have one result."""

from __future__ import annotations

import errno
import os
import time
import warnings
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from forgather_core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from forgather_core.checkpoint.write import commit, sharded, weight_stream
from forgather_core.checkpoint.write.sharded import _owners
from forgather_core.errors import CheckpointError
from forgather_core.filesystem.strict_json import read_object
from forgather_core.parallel.gather import holders_of
from tests.core.checkpoint.test_sharded_load import Tied
from tests.support.ranks import received, run_ranks, start_ranks

LLAMA: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
}
MESHES = {2: ("fsdp", "tp"), 3: ("fsdp",), 4: ("fsdp, tp", "hsdp")}
FORMATS = pytest.mark.parametrize("safetensors", [True, False], ids=["safetensors", "bin"])


def whole(seed: int = 0) -> Tied:
    torch.manual_seed(seed)
    model = Tied()
    del model.scale  # FSDP2 refuses scalars
    model.embed = nn.Embedding(5, 6)  # of four processes, the last one has no row
    model.head = nn.Linear(6, 5, bias=False)
    model.head.weight = model.embed.weight
    return model


def distributed(kind: str, seed: int = 0) -> Tied:
    """Return the model of a seed, sharded over all processes."""
    model, count = whole(seed), dist.get_world_size()
    if "tp" in kind:
        shape = (count // 2, 2) if "fsdp" in kind else (count,)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("fsdp", "tp")[-len(shape) :])
        parallelize_module(model, mesh["tp"], {"one": ColwiseParallel(), "two": RowwiseParallel()})
        if "fsdp" in kind:
            fully_shard(model, mesh=mesh["fsdp"])
    elif kind == "hsdp":
        fully_shard(model, mesh=init_device_mesh("cpu", (2, count // 2), mesh_dim_names=("copies", "parts")))
    else:
        fully_shard(model, mesh=init_device_mesh("cpu", (count,)))
    return model


def save(path: str, kind: str, safetensors: bool, limit: int | str = "5GB") -> Any:
    warnings.simplefilter("ignore")
    return save_checkpoint(path, distributed(kind), safetensors=safetensors, max_shard_size=limit).to_dict()


def assert_saved(path: Path, seed: int = 0) -> None:
    """Check that a checkpoint has the values of the model of a seed, and that nothing else is there."""
    with Checkpoint.open(path) as checkpoint:
        checkpoint.verify()
        expected = whole(seed).state_dict()
        del expected["head.weight"]  # tied
        assert set(checkpoint) == expected.keys()
        for name, values in expected.items():
            assert torch.equal(checkpoint[name].tensor(), values), name
        named = {*checkpoint.files}
    assert not [one for one in path.iterdir() if one.suffix in (".safetensors", ".bin") and one.name not in named]
    assert not [one for one in path.iterdir() if one.is_dir()]


def load(path: str, kind: str) -> bool:
    """Return whether this process has its parts of the values after a load."""
    model, expected = distributed(kind, seed=1), whole()
    load_checkpoint(path, model, strict=True)
    parts = dict(model.named_parameters())
    expected_parts = dict(distributed(kind).named_parameters())
    same = all(torch.equal(parts[name].to_local(), one.to_local()) for name, one in expected_parts.items())
    return same and torch.equal(model.mean, expected.mean)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_any_mesh_loads_what_any_other_has_saved(count: int, tmp_path: Path) -> None:
    for kind in MESHES[count]:
        for safetensors in (True, False):
            path = tmp_path / f"{kind}-{safetensors}"
            reports = run_ranks(save, count, str(path), kind, safetensors)
            assert all(isinstance(report, dict) for report in reports), reports
            assert all(report == reports[0] for report in reports), "all processes have the same report"
            assert reports[0]["tensors"] == 8
            assert_saved(path)
            alone = whole(1)
            load_checkpoint(path, alone, strict=True)
            assert all(map(torch.equal, alone.state_dict().values(), whole().state_dict().values()))
            for other in (count, 2):
                assert run_ranks(load, other, str(path), MESHES[other][0]) == [True] * other


def test_each_process_writes_files_and_small_limits_are_kept(tmp_path: Path) -> None:
    reports = run_ranks(save, 2, str(tmp_path / "model"), "fsdp", True)
    assert len(reports[0]["files"]) == 3, "two files and an index"
    reports = run_ranks(save, 2, str(tmp_path / "model"), "fsdp", True, 100)
    assert len(reports[0]["files"]) > 5
    assert_saved(tmp_path / "model")


def save_llama(path: str) -> Any:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    return save_checkpoint(path, model).to_dict()


def test_the_class_of_the_model_is_saved_and_not_that_of_fsdp(tmp_path: Path) -> None:
    reports = run_ranks(save_llama, 2, str(tmp_path / "model"))
    assert isinstance(reports[0], dict), reports
    assert read_object(tmp_path / "model" / "config.json")["architectures"] == ["LlamaForCausalLM"]
    assert not [*(tmp_path / "model").glob("*.py")]
    torch.manual_seed(0)
    expected = LlamaForCausalLM(LlamaConfig(**LLAMA)).state_dict()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(found[name], one) for name, one in expected.items())


FAULTS = {
    "full disk": "No space left on device",  # before anything is written
    "full disk later": "No space left on device",  # while the others wait for tensors of this process
    "full disk at the end": "No space left on device",
    "no fsync": "Input/output error",
    "other tensors": "'mean' differs between process 0 and",
    "index": "No space left on device",  # after all files are durable
    "rename": "Input/output error",
}
ONLY_FIRST = ("index", "rename")


def save_with_fault(path: str, kind: str, safetensors: bool, rank: int, fault: str) -> Any:
    """Save, with a fault in one process."""
    warnings.simplefilter("ignore")
    model = distributed(kind, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        if dist.get_rank() == rank:
            plant(fault, model, path, patch)
        return save_checkpoint(path, model, safetensors=safetensors)


def plant(fault: str, model: Any, path: str, patch: pytest.MonkeyPatch) -> None:
    """Let the save of this process fail."""

    def fails_once(code: int, after: int, real: Any) -> Any:
        calls: list[int] = []

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == after + 1:
                raise OSError(code, os.strerror(code), f"{path}/part")
            return real(*args, **kwargs)

        return call

    if fault == "other tensors":
        del model.mean
        return
    owner, name, code, after = {
        "full disk": (sharded, "write_shards", errno.ENOSPC, 0),
        "full disk later": (weight_stream.WeightStream, "write", errno.ENOSPC, 3),
        "full disk at the end": (weight_stream, "write_fully", errno.ENOSPC, 0),
        "no fsync": (weight_stream, "sync_file", errno.EIO, 0),
        "index": (commit, "_write", errno.ENOSPC, 1),
        "rename": (Path, "rename", errno.EIO, 2),
    }[fault]
    patch.setattr(owner, name, fails_once(code, after, getattr(owner, name)))


@pytest.mark.few(5, slow=8)
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
@FORMATS
def test_all_processes_have_the_error_of_one(rank: int, fault: str, safetensors: bool, tmp_path: Path) -> None:
    if rank and fault in ONLY_FIRST:
        pytest.skip("only the first process commits")
    path = tmp_path / "model"
    run_ranks(save, 2, str(path), "fsdp", safetensors)
    before = sorted(one.name for one in path.iterdir())
    errors = run_ranks(save_with_fault, 2, str(path), "fsdp", safetensors, rank, fault, seconds=60)
    assert [type(error) for error in errors] == [CheckpointError] * 2, errors
    assert FAULTS[fault] in str(errors[0])
    assert str(errors[0]) == str(errors[1])
    old = whole(2)
    load_checkpoint(path, old, strict=True, verify_checksums=True)
    assert all(map(torch.equal, old.state_dict().values(), whole().state_dict().values()))
    if fault in ONLY_FIRST:
        run_ranks(save, 2, str(path), "fsdp", safetensors)  # the next save removes what this one left
    else:
        assert sorted(one.name for one in path.iterdir()) == before
    assert_saved(path)


def test_an_error_of_the_first_process_before_it_writes_is_that_of_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    errors = run_ranks(save, 2, str(tmp_path / "file"), "fsdp", True)
    assert [type(error) for error in errors] == [CheckpointError] * 2
    assert str(errors[0]) == str(errors[1])


def save_often(path: str, kind: str, safetensors: bool) -> None:
    warnings.simplefilter("ignore")
    models = [distributed(kind, seed) for seed in (0, 1)]
    dist.barrier()
    for _ in range(2):  # all processes have left the barrier
        save_checkpoint(path, models[0], safetensors=safetensors)
    if dist.get_rank() == 0:
        Path(f"{path}.ready").touch()
    while True:
        for model in models:
            save_checkpoint(path, model, safetensors=safetensors, max_shard_size=100)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [12, pytest.param(50, marks=pytest.mark.exhaustive)])
@FORMATS
def test_a_killed_process_leaves_a_whole_checkpoint(safetensors: bool, kills: int, tmp_path: Path) -> None:
    random, path = Random(0), tmp_path / "model"
    run_ranks(save, 2, str(path), "fsdp", safetensors)
    for _ in range(kills):
        processes, results = start_ranks(save_often, 2, str(path), "fsdp", safetensors)
        while not (ready := Path(f"{path}.ready")).exists():
            time.sleep(0.01)
        ready.unlink()
        time.sleep(random.random())
        killed = random.randrange(2)
        processes[killed].kill()
        other = received(results[1 - killed], seconds=30)
        assert isinstance(other, CheckpointError), other
        assert "another process has died" in str(other)
        for process in processes:
            process.join(30)
        model = whole(2)
        load_checkpoint(path, model, strict=True, verify_checksums=True)
        found = model.state_dict().values()
        assert any(all(map(torch.equal, found, whole(seed).state_dict().values())) for seed in (0, 1))
    run_ranks(save, 2, str(path), "fsdp", safetensors)
    assert_saved(path)


@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=30), count=st.integers(1, 8))
def test_files_are_divided_among_processes(sizes: list[int], count: int) -> None:
    owners = _owners(sizes, count)
    loads = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == rank) for rank in range(count)]
    assert max(loads) <= sum(sizes) / count + max(sizes)
    assert min(len(sizes), count) == len(set(owners))


def test_parts_that_do_not_make_up_a_tensor_are_refused() -> None:
    half, other = ((0, 2), (0, 3)), ((2, 2), (0, 3))
    assert holders_of({"a": (4, 3)}, [{"a": half}, {"a": other}, {"a": half}]) == {"a": {half: [0, 2], other: [1]}}
    with pytest.raises(CheckpointError, match="do not hold 'a' once"):
        holders_of({"a": (4, 3)}, [{"a": half}, {"a": half}])
