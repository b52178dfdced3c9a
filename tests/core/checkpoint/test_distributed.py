"""Directories of torch.distributed.checkpoint are read like other checkpoints, and nothing in them is trusted."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from math import prod
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import SerializationFormat, _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import LlamaConfig, LlamaForCausalLM

from forgather_core.checkpoint import (
    Checkpoint,
    convert_checkpoint,
    inspect_checkpoint,
    link_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from forgather_core.checkpoint.formats.stored import WeightFile
from forgather_core.errors import CheckpointError
from tests.core.checkpoint.test_convert import MIXED, Holder
from tests.core.checkpoint.test_sharded_load import Tied
from tests.core.checkpoint.test_sharded_save import LLAMA
from tests.core.checkpoint.test_sharded_save import distributed as sharded_in_two_ways
from tests.core.checkpoint.test_sharded_save import whole as whole_of_two_ways
from tests.support.mesh import part_of, process_of_mesh, shard
from tests.support.ranks import run_ranks

FILE = "__0_0.distcp"


def whole(seed: int = 0) -> Tied:
    torch.manual_seed(seed)
    model = Tied()
    del model.scale  # FSDP2 refuses scalars
    return model


def distributed(kind: str, seed: int = 0) -> Tied:
    """Return the model of a seed, sharded over two processes."""
    model, mesh = whole(seed), init_device_mesh("cpu", (2,))
    if kind == "tp":
        parallelize_module(model, mesh, {"one": ColwiseParallel(), "two": RowwiseParallel()})
    else:
        fully_shard(model, mesh=mesh)
    return model


def save_parts(path: str) -> bool:
    """Save a model of FSDP2 with the state of its optimizer, and one of tensor parallelism without it."""
    warnings.simplefilter("ignore")
    model = distributed("fsdp")
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter, value in zip(model.parameters(), distributed("fsdp").parameters(), strict=True):
        parameter.data.copy_(value.data)
    state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer), "step": 7}
    dcp.save(state, checkpoint_id=f"{path}/fsdp")
    dcp.save(distributed("tp").state_dict(), checkpoint_id=f"{path}/tp")
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**LLAMA))
    fully_shard(llama, mesh=init_device_mesh("cpu", (2,)))
    dcp.save({"model": get_model_state_dict(llama)}, checkpoint_id=f"{path}/trainer/pytorch_model_fsdp_0")
    return True


def local(tensor: Any) -> Tensor:
    """Return the part of a tensor that this process has."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def load_parts(path: str) -> bool:
    """Return whether this process has its parts of the values after loads of what the other kind of mesh has saved."""
    same = True
    for kind, other in (("fsdp", "tp"), ("tp", "fsdp")):
        model = distributed(kind, seed=1)
        load_checkpoint(f"{path}/{other}", model, strict=True)
        expected = dict(distributed(kind).named_parameters())
        same &= all(torch.equal(local(one), local(expected[name])) for name, one in model.named_parameters())
        same &= torch.equal(model.mean, whole().mean)
    return same


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    assert run_ranks(save_parts, 2, str(path)) == [True, True]
    (path / "trainer" / "optimizer_0").mkdir()
    (path / "trainer" / "trainer_state.json").write_text("{}")
    LlamaForCausalLM(LlamaConfig(**LLAMA)).config.save_pretrained(path / "trainer")
    return path


def save_alone(path: Path, state: dict[str, Any], **how: Any) -> Path:
    with warnings.catch_warnings(action="ignore"):
        writer = dcp.FileSystemWriter(path, **how)
        dcp.save(state, storage_writer=writer, no_dist=True)
    return path


def read(path: Path) -> dict[str, Tensor]:
    with Checkpoint.open(path) as checkpoint:
        return {name: tensor.tensor() for name, tensor in checkpoint.items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        assert found[name].dtype == values.dtype, name
        as_bytes = (one.contiguous().view(-1).view(torch.uint8) for one in (found[name], values))
        assert torch.equal(*as_bytes), name


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fsdp", "tp"])
def test_a_single_process_loads_what_several_have_saved(kind: str, saved: Path) -> None:
    expected = whole().state_dict()
    assert_equal(read(saved / kind), dict(expected))
    model = whole(1)
    report = load_checkpoint(saved / kind, model, strict=True)
    assert report.complete
    assert model.head.weight is model.embed.weight
    assert_equal(dict(model.state_dict()), dict(expected))
    with torch.device("meta"):
        model = whole(1)
    load_checkpoint(saved / kind, model, device="cpu", strict=True)
    assert_equal(dict(model.state_dict()), dict(expected))
    model = whole(1)
    load_checkpoint(saved / kind, model, assign=True, strict=True)
    assert_equal(dict(model.state_dict()), dict(expected))
    model = whole(1).bfloat16()
    load_checkpoint(saved / kind, model, strict=True)
    assert_equal(dict(model.state_dict()), {name: values.bfloat16() for name, values in expected.items()})


def test_the_state_of_the_optimizer_is_left_out_and_counted(saved: Path) -> None:
    report = load_checkpoint(saved / "fsdp", whole(1), strict=True)
    assert report.notes == (
        "21 tensors of the optimizer and other training state left out",
        "names of 9 tensors read without 'model.'",
    )
    report = load_checkpoint(saved / "tp", whole(1), strict=True)
    assert report.notes == ()


@pytest.mark.parametrize("kind", ["fsdp", "tp"])
@pytest.mark.parametrize(("shape", "dims"), [((3,), (0,)), ((2,), (1,)), ((2, 2), (0, 1)), ((2,), (None,))])
def test_a_process_of_any_mesh_loads_its_part(
    kind: str, shape: tuple[int, ...], dims: tuple[int | None, ...], saved: Path
) -> None:
    original = whole()
    for rank in range(prod(shape)):
        with process_of_mesh(rank, shape) as mesh:
            model = whole(1)
            shard(model, mesh, dims)
            assert load_checkpoint(saved / kind, model, strict=True).complete
            for name, values in original.named_parameters():
                found: Any = model.get_parameter(name)
                assert torch.equal(found.to_local(), part_of(values, mesh, dims)), name


def test_processes_load_what_another_mesh_has_saved(saved: Path) -> None:
    assert run_ranks(load_parts, 2, str(saved)) == [True, True]


def save_both(path: str, kind: str) -> bool:
    warnings.simplefilter("ignore")
    dcp.save({"model": sharded_in_two_ways(kind).state_dict()}, checkpoint_id=path)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp, tp", "hsdp"])
def test_a_mesh_of_two_dimensions_may_have_saved_it(kind: str, tmp_path: Path) -> None:
    assert run_ranks(save_both, 4, str(tmp_path), kind) == [True] * 4
    assert_equal(read(tmp_path), dict(whole_of_two_ways().state_dict()))


def test_only_the_chunks_of_a_part_are_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = set[str]()
    original = WeightFile.read

    def observed(self: WeightFile, memory: memoryview, offset: int) -> None:
        used.add(self.path.name)
        original(self, memory, offset)

    monkeypatch.setattr(WeightFile, "read", observed)
    with process_of_mesh(1, (2,)) as mesh:
        model = nn.Module()
        model.experts = nn.Parameter(torch.zeros(4, 3, 5))
        shard(model, mesh, (0,))
        load_checkpoint(saved / "fsdp", model)
    assert used == {"__1_0.distcp"}


@pytest.mark.parametrize("container", [None, "model"])
def test_every_dtype_shape_and_layout(container: str | None, tmp_path: Path) -> None:
    tensors = MIXED | {
        "transposed": torch.arange(12.0).view(3, 4).t(),
        "channels": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "repeated": torch.tensor([1.5]).expand(3, 4),
        "part": torch.arange(10.0)[2:5],
    }
    state: dict[str, Any] = {container: tensors} if container else dict(tensors)
    assert_equal(read(save_alone(tmp_path / "saved", state | {"epoch": 3})), tensors)


def test_files_in_the_safetensors_format(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(3, 4), "b": torch.arange(5).bfloat16()}
    path = save_alone(tmp_path / "saved", dict(tensors), serialization_format=SerializationFormat.SAFETENSORS)
    assert_equal(read(path), tensors)


def test_fp8_weights_are_dequantized(tmp_path: Path) -> None:
    weight = torch.randn(4, 6).to(torch.float8_e4m3fn)
    path = save_alone(tmp_path / "saved", {"model": {"weight": weight, "weight_scale_inv": torch.tensor(0.5)}})
    model = nn.Linear(6, 4, bias=False)
    report = load_checkpoint(path, model)
    assert torch.equal(model.weight, weight.float() * 0.5)
    assert "quantized (fp8): dequantized 1 tensor" in report.notes


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("container", [(), ("model",), ("app", "model"), ("state",)])
def test_containers_and_wrappers_are_removed(prefix: str, container: tuple[str, ...], tmp_path: Path) -> None:
    original = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    state: dict[str, Any] = {prefix + name: values for name, values in original.state_dict().items()}
    for key in reversed(container):
        state = {key: state}
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    assert load_checkpoint(save_alone(tmp_path / "saved", state), model, strict=True).complete
    assert_equal(dict(model.state_dict()), dict(original.state_dict()))


def test_a_directory_of_torchtitan(tmp_path: Path) -> None:
    """Its model is at the top level, beside states under names of their own."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    state = {
        **model.state_dict(),
        "optimizer": {"state.0.weight.exp_avg": torch.ones(3, 2), "param_groups.0.weight.lr": 0.1},
        "lr_scheduler": {"last_epoch": 3},
        "dataloader": {"dp_rank_0": b"x"},
        "train_state": {"step": torch.tensor(3), "ntokens_seen": torch.tensor(9)},
    }
    assert_equal(read(save_alone(tmp_path / "step-3", state)), dict(model.state_dict()))
    with pytest.raises(CheckpointError, match=r"checkpoints of a training run.*step-3"):
        Checkpoint.open(tmp_path)


def test_an_optimizer_below_another_key_is_left_out(tmp_path: Path) -> None:
    optimizer = {"state": {"weight": {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    state = {"app": {"model": {"weight": torch.zeros(3)}, "adam": optimizer}}
    assert_equal(read(save_alone(tmp_path / "saved", state)), {"weight": torch.zeros(3)})


def test_a_module_may_be_named_like_a_part_of_an_optimizer(tmp_path: Path) -> None:
    tensors = {"state.weight": torch.zeros(3), "layers.state.bias": torch.ones(2)}
    assert_equal(read(save_alone(tmp_path / "saved", {"model": tensors})), tensors)


def test_other_models_keep_their_names(tmp_path: Path) -> None:
    state = {"model": {"weight": torch.zeros(3)}, "ema": {"weight": torch.ones(3)}}
    expected = {"weight": torch.zeros(3), "ema.weight": torch.ones(3)}
    assert_equal(read(save_alone(tmp_path / "two", state)), expected)
    state = {"model": {"weight": torch.zeros(3)}, "weight": torch.ones(3)}
    expected = {"model.weight": torch.zeros(3), "weight": torch.ones(3)}
    assert_equal(read(save_alone(tmp_path / "ambiguous", state)), expected)


# Directories and commands --------------------------------------------------------------------------------------------


def test_a_checkpoint_of_the_trainer_is_converted(saved: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = LlamaForCausalLM(LlamaConfig(**LLAMA)).state_dict()
    for form in ("safetensors", "bin", None):
        target = tmp_path / str(form)
        report = convert_checkpoint(saved / "trainer", target, format=form)
        assert report.notes == ("names of 21 tensors read without 'model.'",)
        assert not list(target.rglob("*.distcp")) and not list(target.rglob(".metadata"))
        assert (target / "trainer_state.json").is_file()
        assert report.files == (("pytorch_model.bin",) if form == "bin" else ("model.safetensors",))
        found = LlamaForCausalLM.from_pretrained(target).state_dict()
        assert_equal(dict(found), dict(expected))
    convert_checkpoint(saved / "fsdp", tmp_path / "half", dtype="bf16")
    assert [path.name for path in (tmp_path / "half").iterdir()] == ["model.safetensors"]
    assert_equal(read(tmp_path / "half"), {name: v.bfloat16() for name, v in whole().state_dict().items()})


def test_a_conversion_in_place_keeps_the_files_of_torch(tmp_path: Path) -> None:
    path = save_alone(tmp_path / "saved", {"model": {"weight": torch.ones(3)}})
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    convert_checkpoint(path, path)
    assert {file.name for file in path.iterdir()} == {*before, "model.safetensors"}
    assert all((path / name).read_bytes() == content for name, content in before.items())
    report = inspect_checkpoint(path)
    assert report["format"] == "safetensors"
    assert ".metadata is another checkpoint in this directory; loaders prefer model.safetensors" in report["notes"]


def test_inspect_lists_tensors_and_files(saved: Path) -> None:
    report = inspect_checkpoint(saved / "fsdp", verify_checksums=True)
    assert report["format"] == "distcp"
    assert report["entry"] == ".metadata"
    assert {item["name"]: item["shape"] for item in report["tensors"]} == {
        name: list(values.shape) for name, values in whole().state_dict().items()
    }
    assert {item["dtype"] for item in report["tensors"]} == {"float32"}
    files = [(file["name"], file["checksum"], file["verified"]) for file in report["files"]]
    assert files == [("__0_0.distcp", None, False), ("__1_0.distcp", None, False)]
    assert sum(file["tensors"] for file in report["files"]) == 8 + 8 + 1  # the buffer is in one of them
    with pytest.warns(UserWarning, match=r"no recorded checksum for __0_0\.distcp, __1_0\.distcp"):
        loaded = load_checkpoint(saved / "fsdp", whole(1), verify_checksums=True)
    assert loaded.verified == ()
    assert loaded.unverified == ("__0_0.distcp", "__1_0.distcp")


def test_weights_of_hugging_face_have_precedence(tmp_path: Path) -> None:
    path = save_alone(tmp_path / "saved", {"weight": torch.ones(3)})
    save_checkpoint(path, Holder({"weight": torch.zeros(3)}))
    assert_equal(read(path), {"weight": torch.zeros(3)})


def test_it_is_not_linked_into_a_model_directory(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot load.*checkpoint convert"):
        link_checkpoint(tmp_path, saved / "fsdp")


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    tensors = {"one": torch.arange(12.0).view(3, 4), "two": torch.ones(5)}
    return save_alone(tmp_path / "saved", {"model": tensors})


def edit(path: Path, change: Callable[[Metadata], Any]) -> None:
    file = path / ".metadata"
    content = pickle.loads(file.read_bytes())
    change(content)
    file.write_bytes(pickle.dumps(content))


def info(content: Metadata, **values: Any) -> None:
    for key, value in values.items():
        setattr(content.storage_data[MetadataIndex("model.one", [0, 0])], key, value)


def chunks(content: Metadata, *boxes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    known = content.storage_data[MetadataIndex("model.one", [0, 0])]
    content.state_dict_metadata["model.one"].chunks[:] = [
        ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in boxes
    ]
    for offsets, _ in boxes:
        content.storage_data[MetadataIndex("model.one", offsets)] = known


def set_size(content: Metadata, *size: int) -> None:
    content.state_dict_metadata["model.one"].size = torch.Size(size)


def set_dtype(content: Metadata) -> None:
    content.state_dict_metadata["model.one"].properties.dtype = torch.float64


CHANGES: dict[str, tuple[Callable[[Metadata], Any], str]] = {
    "parent": (lambda c: info(c, relative_path="../x.distcp"), "not a file in its directory"),
    "absolute": (lambda c: info(c, relative_path="/etc/passwd"), "not a file in its directory"),
    "no name": (lambda c: info(c, relative_path=5), "not a file in its directory"),
    "missing": (lambda c: info(c, relative_path="__9_0.distcp"), "__9_0.distcp.*is missing"),
    "beyond": (lambda c: info(c, offset=10**9), "is truncated: 'model.one' ends at byte"),
    "long": (lambda c: info(c, length=10**9), "is truncated: 'model.one' ends at byte"),
    "negative": (lambda c: info(c, offset=-1), "the position of 'model.one'"),
    "no number": (lambda c: info(c, length="x"), "the position of 'model.one'"),
    "shifted": (lambda c: info(c, offset=8), "damaged values of 'model.one' at byte 8"),
    "short": (lambda c: info(c, length=100), "damaged values of 'model.one' at byte"),
    "empty": (lambda c: info(c, length=0), "damaged values of 'model.one' at byte"),
    "transformed": (lambda c: info(c, transform_descriptors=["zstd"]), "was transformed when it was saved"),
    "gap": (lambda c: chunks(c, ((0, 0), (2, 4))), "describes differently|do not cover"),
    "no chunk": (chunks, "do not cover its shape"),
    "large": (lambda c: set_size(c, 4, 4), "do not cover its shape"),
    "other shape": (lambda c: set_size(c, 3, 2), "do not cover its shape"),
    "dimensions": (lambda c: set_size(c, 12), "other dimensions"),
    "dtype": (set_dtype, r"describes differently \(expected float64 .*, got float32"),
    "overlap": (lambda c: chunks(c, ((0, 0), (3, 4)), ((1, 0), (3, 4))), "do not cover its shape"),
    "twice": (lambda c: chunks(c, ((0, 0), (3, 4)), ((0, 0), (2, 4))), "overlap"),
    "unlisted": (lambda c: c.storage_data.clear(), "does not list the file"),
    "nothing": (lambda c: c.state_dict_metadata.clear(), "describes no weights"),
    "no mapping": (lambda c: setattr(c, "storage_data", None), "no description"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_wrong_description_is_one_line(kind: str, damaged: Path) -> None:
    change, pattern = CHANGES[kind]
    edit(damaged, change)
    with pytest.raises(CheckpointError, match=pattern) as caught:
        Checkpoint.open(damaged)
    assert "\n" not in str(caught.value)
    assert str(damaged) in str(caught.value)


def test_missing_and_truncated_files(damaged: Path) -> None:
    content = (damaged / FILE).read_bytes()
    for size in (0, 1, 100, len(content) - 1):
        (damaged / FILE).write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"distcp.*(is truncated|damaged values)"):
            load_checkpoint(damaged, Holder({"one": torch.zeros(3, 4), "two": torch.ones(5)}))
    (damaged / FILE).unlink()
    with pytest.raises(CheckpointError, match=r"distcp.*is missing"):
        Checkpoint.open(damaged)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("__0_0.distcp", "without .metadata"), ("__0.metadata", "without .metadata"), ("step-30", "step-30")],
)
def test_directories_without_an_entry(name: str, pattern: str, tmp_path: Path) -> None:
    if "." in name:
        (tmp_path / name).write_bytes(b"x")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=pattern):
        Checkpoint.open(tmp_path)


def test_parts_of_a_checkpoint_are_named(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"one file of a torch distributed checkpoint.*name its directory"):
        Checkpoint.open(damaged / FILE)
    assert read(damaged / ".metadata").keys() == {"one", "two"}
    for number in range(2):
        shutil.copytree(damaged, tmp_path / "models" / f"pytorch_model_fsdp_{number}")
    with pytest.raises(CheckpointError, match=r"several models.*pytorch_model_fsdp_0"):
        Checkpoint.open(tmp_path / "models")
    optimizer = save_alone(tmp_path / "optimizer_0", {"optimizer": {"state": {"w": {"exp_avg": torch.ones(3)}}}})
    with pytest.raises(CheckpointError, match="no weights: 1 tensor of the optimizer"):
        Checkpoint.open(optimizer)


class Harmful:
    """An object whose pickle runs code when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("place", ["whole", "value", "key", "planner", "chunk"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_code_in_the_description_is_not_run(place: str, protocol: int, damaged: Path, tmp_path: Path) -> None:
    harmful, file = Harmful(tmp_path / "harm"), damaged / ".metadata"
    content = pickle.loads(file.read_bytes())
    if place == "whole":
        content = harmful
    elif place == "value":
        content.state_dict_metadata["x"] = harmful
    elif place == "key":
        content.storage_data[harmful] = 1
    elif place == "planner":
        content.planner_data = harmful
    else:
        content.state_dict_metadata["model.one"].chunks.append(harmful)
    file.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(CheckpointError, match=r"holds code, which is not run: (posix|nt)\.mkdir"):
        Checkpoint.open(damaged)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\x80\x04.",
        b"\x80\x04}.",
        b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n.",
        b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n)R.",
        b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n}b.",
        b"\x80\x02ctorch\nSize\n)\x81.",
        b"\x80\x02ctorch\nSize\nK\x01\x85R.",
        b"\x80\x02ctorch\nFloatStorage\n.",
        b"\x80\x02(" + b"]" * 20_000 + b"e.",
    ],
)
def test_other_pickles_are_refused(data: bytes, damaged: Path) -> None:
    (damaged / ".metadata").write_bytes(data)
    with pytest.raises(CheckpointError, match="does not describe a torch distributed checkpoint, or is damaged"):
        Checkpoint.open(damaged)


@pytest.mark.parametrize("name", [".metadata", FILE])
def test_random_damage_is_an_error_or_without_effect(name: str, damaged: Path) -> None:
    random, refused = Random(0), 0
    original = (damaged / name).read_bytes()
    for _ in range(300):
        content = bytearray(original)
        for _ in range(random.choice((1, 1, 1, 2, 8))):
            at = random.randrange(len(content))
            kind = random.randrange(4)
            if kind == 0:
                content[at] = random.randrange(256)
            elif kind == 1:
                content[at] ^= 1 << random.randrange(8)
            elif kind == 2:
                del content[at : at + random.randrange(1, 9)]
            else:
                content[at:at] = content[(start := random.randrange(len(content))) : start + random.randrange(1, 30)]
        (damaged / name).write_bytes(content)
        try:
            assert {tensor.nbytes for tensor in read(damaged).values()} <= set(range(200))
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50


def test_a_chunk_that_repeats_its_values_is_refused(tmp_path: Path) -> None:
    """A few bytes that expand to gigabytes would fill the memory."""
    size = 2**30
    path = save_alone(tmp_path / "saved", {"one": torch.ones(1)})
    data = io.BytesIO()
    torch.save(torch.ones(1).expand(size), data)
    (path / FILE).write_bytes(data.getvalue())
    index = MetadataIndex("one", [0])

    def change(content: Metadata) -> None:
        content.state_dict_metadata["one"].size = torch.Size([size])
        content.state_dict_metadata["one"].chunks[0].sizes = torch.Size([size])
        content.storage_data[index] = _StorageInfo(FILE, 0, len(data.getvalue()))

    edit(path, change)
    with Checkpoint.open(path) as checkpoint, pytest.raises(CheckpointError, match="repeats"):
        checkpoint["one"].tensor()
