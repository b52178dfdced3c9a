"""A load reports what it finds itself (shapes, dtypes, NaN), whatever the index claims."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from forgather_core.checkpoint import inspect_checkpoint, load_checkpoint, save_checkpoint
from forgather_core.errors import CheckpointError

FORMATS = pytest.mark.parametrize("safetensors", [True, False], ids=["safetensors", "bin"])


def damaged(model: nn.Linear, value: float) -> nn.Linear:
    with torch.no_grad():
        model.weight[3, 1] = value
    return model


@pytest.mark.regression("R9")
@FORMATS
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("verify", [False, True])
def test_nan_is_reported_whatever_an_index_records(
    tmp_path: Path, safetensors: bool, value: float, verify: bool
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    save_checkpoint(good, nn.Linear(8, 8), safetensors=safetensors)
    save_checkpoint(bad, damaged(nn.Linear(8, 8), value), safetensors=safetensors, max_shard_size=1)
    (index,) = bad.glob("*.index.json")
    content = json.loads(index.read_text())
    content["metadata"]["non_finite"] = []
    index.write_text(json.dumps(content))  # younger than the shard
    os.utime(index, ns=(2**62, 2**62))
    with pytest.warns(UserWarning, match="loaded from .* with NaN or Inf: weight"):
        report = load_checkpoint(bad, nn.Linear(8, 8), verify_checksums=verify)
    assert report.non_finite == ("weight",)


@pytest.mark.regression("R9")
def test_overwritten_shard_is_checked(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "good", nn.Linear(8, 8), safetensors=True, max_shard_size=1)
    save_checkpoint(tmp_path / "bad", damaged(nn.Linear(8, 8), torch.nan), safetensors=True, max_shard_size=1)
    (index,), (shard,) = (tmp_path / "good").glob("*.json"), (tmp_path / "bad").glob("*1-of-00002.safetensors")
    target = tmp_path / "good" / shard.name
    shutil.copy2(shard, target)
    os.utime(target, ns=(0, 0))
    assert target.stat().st_mtime_ns < index.stat().st_mtime_ns
    with pytest.warns(UserWarning, match="NaN or Inf: weight"):
        load_checkpoint(tmp_path / "good", nn.Linear(8, 8))


@pytest.fixture(params=[{"safetensors": True, "max_shard_size": 1}, {"safetensors": True}, {}], ids=str)
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """Return a checkpoint with NaN whose seal proves that it is unchanged since its save."""
    monkeypatch.setattr("forgather_core.checkpoint.write.save_job.MINIMUM", 0)
    save_checkpoint(tmp_path / "sealed", damaged(nn.Linear(8, 8), torch.nan), **request.param)
    if not is_trusted(tmp_path / "sealed"):
        pytest.skip("the file system has no extended attributes")
    return tmp_path / "sealed"


def is_trusted(directory: Path) -> bool:
    from forgather_core.checkpoint import Checkpoint

    with Checkpoint.open(directory) as checkpoint:
        return checkpoint.known_non_finite is not None


def rewrite(file: Path) -> None:
    """Write the same bytes again, and restore the time."""
    status = file.stat()
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(file: Path) -> None:
    copy = Path(shutil.copy2(file, file.with_suffix(".copy")))
    copy.replace(file)


def touch_index(file: Path) -> None:
    for index in file.parent.glob("*.index.json"):
        index.write_text(index.read_text() + " ")
        return
    pytest.skip("there is no index")


CHANGES = {
    "rewritten": rewrite,
    "replaced": replace,
    "touched": lambda file: os.utime(file, ns=(1, 1)),
    "linked": lambda file: os.link(file, file.with_suffix(".copy")),
    "another index": touch_index,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_breaks_the_seal(sealed: Path, change: Callable[[Path], object]) -> None:
    shard = min(path for path in sealed.iterdir() if path.suffix != ".json")
    with pytest.warns(UserWarning, match="NaN or Inf: weight"):
        load_checkpoint(sealed, nn.Linear(8, 8))
    change(shard)
    assert not is_trusted(sealed)
    with pytest.warns(UserWarning, match="NaN or Inf: weight"):
        load_checkpoint(sealed, nn.Linear(8, 8))


def test_copy_has_no_seal_and_moved_directory_has(sealed: Path) -> None:
    assert not is_trusted(Path(shutil.copytree(sealed, sealed.parent / "copy")))
    assert is_trusted(sealed.rename(sealed.parent / "moved"))


def test_sealed_record_applies_only_without_conversion(sealed: Path) -> None:
    with pytest.warns(UserWarning, match="NaN or Inf: weight"):
        load_checkpoint(sealed, nn.Linear(8, 8).half())
    model = nn.Linear(8, 8)
    model.weight.data[1, 1] = 1e30
    save_checkpoint(sealed, model, safetensors=True)
    with pytest.warns(UserWarning, match="NaN or Inf: weight"):
        load_checkpoint(sealed, nn.Linear(8, 8).half())


def test_false_record_of_nan_is_not_repeated(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, nn.Linear(8, 8), safetensors=True, max_shard_size=1)
    (index,) = tmp_path.glob("*.index.json")
    content = json.loads(index.read_text())
    content["metadata"]["non_finite"] = ["weight"]
    index.write_text(json.dumps(content))
    assert load_checkpoint(tmp_path, nn.Linear(8, 8)).non_finite == ()


def test_assigned_pages_are_not_reported_as_finite(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, nn.Linear(8, 8), safetensors=True)
    assert load_checkpoint(tmp_path, nn.Linear(8, 8), assign=True).non_finite is None


@pytest.mark.parametrize("key", ["dtype", "total_parameters", "total_size"])
def test_index_metadata_is_compared_with_the_headers(tmp_path: Path, key: str) -> None:
    save_checkpoint(tmp_path, nn.Linear(8, 8), safetensors=True, max_shard_size=1)
    (index,) = tmp_path.glob("*.index.json")
    content = json.loads(index.read_text())
    content["metadata"][key] = "float16" if key == "dtype" else 7
    index.write_text(json.dumps(content))
    (note,) = inspect_checkpoint(tmp_path)["notes"]
    assert note.startswith("the index records")


@pytest.mark.regression("R8")
@FORMATS
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize(("stored", "said"), [((8, 4), "transposed"), ((4, 7), ""), ((32,), "")])
def test_shape_mismatch_is_an_error_and_the_model_is_unchanged(
    tmp_path: Path, safetensors: bool, assign: bool, stored: tuple[int, ...], said: str
) -> None:
    holder, model = nn.Linear(8, 4), nn.Linear(8, 4)
    holder.weight = nn.Parameter(torch.randn(stored))
    save_checkpoint(tmp_path, holder, safetensors=safetensors)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"1 tensor with a different shape: weight \(expected 4 x 8.*ignore"
    ) as refused:
        load_checkpoint(tmp_path, model, assign=assign)
    assert ("transposed" in str(refused.value)) == bool(said and stored != (4, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.warns(UserWarning, match="1 tensor .* has a different shape"):
        report = load_checkpoint(tmp_path, model, assign=assign, ignore_mismatched_sizes=True)
    assert (torch.equal(model.bias, holder.bias), torch.equal(model.weight, before["weight"])) == (True, True)
    assert [(item.name, item.stored) for item in report.other_shape] == [("weight", stored)]


def test_ignoring_shapes_still_fails_if_nothing_matches(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, nn.Linear(3, 3))
    with pytest.raises(CheckpointError, match="2 tensors with a different shape"):
        load_checkpoint(tmp_path, nn.Linear(8, 8), ignore_mismatched_sizes=True)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
@pytest.mark.parametrize("assign", [False, True])
def test_incompatible_dtypes_are_an_error(tmp_path: Path, dtype: torch.dtype, assign: bool) -> None:
    torch.save({"weight": torch.ones(8, 8).to(dtype), "bias": torch.ones(8)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"weight \(expected float32, got \w+\)"):
        load_checkpoint(tmp_path, nn.Linear(8, 8), assign=assign, ignore_mismatched_sizes=True)
