"""Each process of a device mesh loads its part of a checkpoint, and reads no other bytes."""

from __future__ import annotations

import warnings
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from forgather_core.checkpoint import load_checkpoint, save_checkpoint
from forgather_core.checkpoint.formats.part import PartTensor
from forgather_core.checkpoint.formats.stored import FileTensor, LiveTensor, StoredTensor, memory_of
from forgather_core.errors import CheckpointError
from tests.support.mesh import part_of, process_of_mesh, shard

Dims = tuple[int | None, ...]
MESHES: list[tuple[tuple[int, ...], Dims]] = [
    ((2,), (0,)),
    ((3,), (0,)),
    ((2,), (1,)),
    ((3,), (1,)),
    ((2,), (None,)),
    ((2, 2), (0, 1)),
    ((2, 2), (1, 1)),
    ((2, 2), (None, 0)),
    ((2, 3), (0, 0)),
    ((8,), (0,)),
]


class Tied(nn.Module):
    """Two weights of the same shape, a tied one, a norm, a scalar and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.norm = nn.LayerNorm(6)
        self.experts = nn.Parameter(torch.randn(4, 3, 5))
        self.scale = nn.Parameter(torch.randn(()))
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mean", torch.randn(3))


class Streamed(LiveTensor):
    """A tensor in memory whose parts can be read."""

    @property
    def streams(self) -> bool:
        return True


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tied]:
    torch.manual_seed(0)
    model, place = Tied(), tmp_path_factory.mktemp("saved")
    for form in ("safetensors", "bin"):
        save_checkpoint(place / form, model, safetensors=form == "safetensors", max_shard_size=200)
    return place, model


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize(("shape", "dims"), MESHES)
def test_each_process_has_its_part(form: str, shape: tuple[int, ...], dims: Dims, saved: tuple[Path, Tied]) -> None:
    place, original = saved
    for rank in range(prod(shape)):
        with process_of_mesh(rank, shape) as mesh:
            model = Tied()
            shard(model, mesh, dims)
            report = load_checkpoint(place / form, model, strict=True)
            assert report.complete
            assert model.head.weight is model.embed.weight
            for name, whole in original.named_parameters():
                local: Any = model.get_parameter(name)
                assert torch.equal(local.to_local(), part_of(whole.detach(), mesh, dims)), (rank, name)
            assert torch.equal(model.get_buffer("mean"), original.get_buffer("mean"))


def test_other_dtypes_are_converted(saved: tuple[Path, Tied]) -> None:
    place, original = saved
    with process_of_mesh(1, (2,)) as mesh:
        model = Tied().to(torch.bfloat16)
        shard(model, mesh, (1,))
        load_checkpoint(place / "safetensors", model)
        local: Any = model.one.weight
        assert torch.equal(local.to_local(), original.one.weight[:, 3:].to(torch.bfloat16))


@pytest.mark.parametrize("dims", [(0,), (1,)])
def test_only_its_bytes_are_read(dims: Dims, saved: tuple[Path, Tied], monkeypatch: pytest.MonkeyPatch) -> None:
    place, _ = saved
    read = FileTensor.read
    counted = 0

    def counting(self: FileTensor, memory: memoryview, start: int) -> None:
        nonlocal counted
        counted += memory.nbytes
        read(self, memory, start)

    monkeypatch.setattr(FileTensor, "read", counting)
    with process_of_mesh(0, (2,)) as mesh:
        model = Tied()
        shard(model, mesh, dims)
        load_checkpoint(place / "safetensors", model)
        parts: list[Any] = list(model.parameters())
        expected = sum(one.to_local().nbytes for one in parts) + model.get_buffer("mean").nbytes
    assert counted == expected


def test_unsupported_loads_are_refused_before_anything_changes(saved: tuple[Path, Tied]) -> None:
    from torch.distributed.tensor import DTensor, Partial

    place, _ = saved
    with process_of_mesh(0, (2,)) as mesh:
        model = Tied()
        shard(model, mesh, (0,))
        with pytest.raises(CheckpointError, match="assign is not supported for weights that are sharded"):
            load_checkpoint(place / "safetensors", model, assign=True)
        with pytest.raises(CheckpointError, match="sharded over cpu, and device is 'meta'"):
            load_checkpoint(place / "safetensors", model, device="meta")
        summed: Any = DTensor.from_local(torch.zeros(6, 6), mesh, [Partial()], run_check=False)
        model.two.weight = nn.Parameter(summed)
        with pytest.raises(CheckpointError, match=r"'two.weight' is sharded as .*Partial.*before sharding it"):
            load_checkpoint(place / "safetensors", model)
        local: Any = model.one.weight
        assert local.to_local().isnan().all()


def test_a_model_on_meta_is_allocated(saved: tuple[Path, Tied]) -> None:
    place, original = saved
    with process_of_mesh(1, (2,)) as mesh:
        with torch.device("meta"):
            model = Tied()
        shard(model, mesh, (0,))
        load_checkpoint(place / "safetensors", model, device="cpu", strict=True)
        for name, whole in original.named_parameters():
            local: Any = model.get_parameter(name)
            assert torch.equal(local.to_local(), part_of(whole.detach(), mesh, (0,))), name


@pytest.mark.parametrize("sealed", [False, True])
def test_each_process_reports_nan_in_its_part(sealed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sealed:
        monkeypatch.setattr("forgather_core.checkpoint.write.save_job.MINIMUM", 0)
    original = Tied()
    with torch.no_grad():
        original.one.weight[5, 0] = torch.nan
    save_checkpoint(tmp_path, original, safetensors=True)
    for rank, expected in ((0, ()), (1, ("one.weight",))):
        with process_of_mesh(rank, (2,)) as mesh:
            model = Tied()
            shard(model, mesh, (0,))
            assert load_checkpoint(tmp_path, model).non_finite == expected


@pytest.mark.parametrize("dim", [0, 1])
def test_fp8_is_dequantized_in_parts(dim: int, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weight = torch.randn(6, 6).to(torch.float8_e4m3fn)
    scale = torch.rand(6, 1) + 0.5
    save_file({"two.weight": weight, "two.weight_scale": scale}, tmp_path / "model.safetensors")
    for rank in (0, 1):
        with process_of_mesh(rank, (2,)) as mesh, warnings.catch_warnings(action="ignore"):
            model = Tied()
            shard(model, mesh, (dim,))
            load_checkpoint(tmp_path, model)
            local: Any = model.two.weight
            assert torch.equal(local.to_local(), part_of(weight.float() * scale, mesh, (dim,)))


def test_parts_of_another_size_are_refused(saved: tuple[Path, Tied]) -> None:
    from torch.distributed.tensor import DTensor, Shard

    place, _ = saved
    with process_of_mesh(0, (2,)) as mesh:
        model = Tied()
        shard(model, mesh, (0,))
        uneven: Any = DTensor.from_local(
            torch.zeros(2, 6), mesh, [Shard(0)], run_check=False, shape=(6, 6), stride=(6, 1)
        )
        model.two.weight = nn.Parameter(uneven)
        with pytest.raises(CheckpointError, match=r"'two.weight' has a local part \(2, 6\) instead of \(3, 6\)"):
            load_checkpoint(place / "safetensors", model)


@given(data=st.data(), shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), streams=st.booleans())
def test_any_range_of_any_box(data: st.DataObject, shape: list[int], streams: bool) -> None:
    box = []
    for size in shape:
        first = data.draw(st.integers(0, size - 1))
        box.append((first, data.draw(st.integers(1, size - first))))
    values = torch.arange(prod(shape), dtype=torch.int16).view(shape)
    source: StoredTensor = Streamed(values) if streams else LiveTensor(values)
    part = PartTensor(source, box)
    expected = values[tuple(slice(at, at + size) for at, size in box)].contiguous()
    assert part.shape == expected.shape
    assert torch.equal(part.tensor(), expected)
    start = data.draw(st.integers(0, part.nbytes))
    count = data.draw(st.integers(0, part.nbytes - start))
    found = bytearray(count)
    part.read(memoryview(found), start)
    assert bytes(found) == bytes(memory_of(expected)[start : start + count])
