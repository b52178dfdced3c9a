"""`.bin` files of ours: torch.load() and other readers of zip archives read them as those of torch.save()."""

import weakref
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from forgather.ml.sharded_checkpoint import save_checkpoint

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.bool, torch.complex64, torch.complex128),
)
SHAPES = ((), (0,), (0, 4), (1, 3), (3, 1, 2), (70, 100))


def module() -> nn.Module:
    """Buffers of all dtypes and shapes, a view of a larger tensor, and one that is not contiguous."""
    made, generator = nn.Module(), torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        for number, shape in enumerate(SHAPES):
            values = torch.randint(0, 100, shape, generator=generator).to(dtype)
            made.register_buffer(f"{str(dtype).removeprefix('torch.')}_{number}", values)
    made.register_buffer("view", torch.arange(100.0)[10:20])
    made.register_buffer("transposed", torch.arange(12.0).view(3, 4).T)
    return made


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("mmap", [True, False])
def test_torch_loads_what_was_saved(tmp_path: Path, mmap: bool, weights_only: bool) -> None:
    model = module()
    (shard,) = (name for name in save_checkpoint(tmp_path, model).files if name.endswith(".bin"))
    found = torch.load(tmp_path / shard, mmap=mmap, weights_only=weights_only)
    assert list(found) == list(model.state_dict())
    for name, expected in model.state_dict().items():
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        assert found[name].is_contiguous()
        assert bits(found[name]) == bits(expected), name
        assert found[name].untyped_storage().nbytes() == expected.nbytes
        assert not mmap or found[name].data_ptr() % 64 == 0 or not expected.nbytes


def test_the_checksums_of_the_archive_are_right(tmp_path: Path) -> None:
    (shard,) = (name for name in save_checkpoint(tmp_path, module()).files if name.endswith(".bin"))
    with zipfile.ZipFile(tmp_path / shard) as archive:
        assert archive.testzip() is None
        assert all(record.CRC for record in archive.infolist() if record.file_size)


def test_sizes_that_need_64_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from forgather_core.checkpoint.write import torch_writer

    monkeypatch.setattr(torch_writer, "_LONG", 1000)
    model = nn.Linear(50, 70)
    (shard,) = (name for name in save_checkpoint(tmp_path, model).files if name.endswith(".bin"))
    found = torch.load(tmp_path / shard, mmap=True)
    assert found["weight"].equal(model.weight)
    assert found["weight"].data_ptr() % 64 == 0


@pytest.mark.regression("bin-at-once")
def test_no_more_than_one_tensor_is_copied_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.save() needs all tensors of a shard on the CPU at once: 5 GB for a model on another device."""
    alive = most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    contiguous = Tensor.contiguous

    def counting(tensor: Tensor, **how: torch.memory_format) -> Tensor:
        nonlocal alive, most
        made = contiguous(tensor, **how)
        alive += 1
        most = max(most, alive)
        weakref.finalize(made, gone)
        return made

    model = nn.Module()
    for number in range(5):
        model.register_buffer(f"b{number}", torch.randn(40, 30).T)
    monkeypatch.setattr(Tensor, "contiguous", counting)
    save_checkpoint(tmp_path, model)
    assert most <= 2
