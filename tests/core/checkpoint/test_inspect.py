"""Inspection reports what a checkpoint contains, and reads only its headers."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from forgather_core.checkpoint import Checkpoint, inspect_checkpoint, link_checkpoint, save_checkpoint
from forgather_core.checkpoint.formats.stored import WeightFile
from forgather_core.errors import CheckpointError

FORMATS = pytest.mark.parametrize("safetensors", [True, False], ids=["safetensors", "bin"])


class Net(nn.Module):
    """A matrix of bfloat16, a bias of float32, and a counter."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.matrix = nn.Linear(width, width, bias=False, dtype=torch.bfloat16)
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("steps", torch.tensor(7))


def save(path: Path, model: nn.Module | None = None, *, safetensors: bool = True, limit: str = "5GB") -> Path:
    save_checkpoint(path, model or Net(), safetensors=safetensors, max_shard_size=limit)
    return path


def edit_index(path: Path, **metadata: Any) -> None:
    file = next(path.glob("*.index.json"))
    content = json.loads(file.read_text())
    content["metadata"] |= metadata
    file.write_text(json.dumps(content))


@FORMATS
def test_a_report_in_full(tmp_path: Path, safetensors: bool) -> None:
    save(tmp_path, safetensors=safetensors)
    stem, suffix = ("model", "safetensors") if safetensors else ("pytorch_model", "bin")
    report = inspect_checkpoint(tmp_path)
    metadata, (file,), tensors = report.pop("metadata"), report.pop("files"), report.pop("tensors")
    assert report == {
        "path": str(tmp_path),
        "entry": f"{stem}.{suffix}",
        "format": suffix,
        "generation": None,
        "bytes": 128 + 32 + 8,
        "elements": 64 + 8 + 1,
        "dtypes": {"bfloat16": 64, "float32": 8, "int64": 1},
        "quantized": None,
        "notes": [],
    }
    assert metadata == {
        "total_size": 168,
        "total_parameters": 73,
        "format": suffix,
        "dtype": "bfloat16",
        "forgather_version": importlib.metadata.version("forgather"),
        "torch_version": torch.__version__,
    }
    shard = tmp_path / f"{stem}.{suffix}"
    assert file == {
        "name": shard.name,
        "bytes": shard.stat().st_size,
        "tensors": 3,
        "checksum": file["checksum"],  # test_round_trips.py computes it
        "verified": None,
    }
    assert sorted((t["name"], t["dtype"], t["shape"], t["bytes"], t["file"]) for t in tensors) == [
        ("bias", "float32", [8], 32, shard.name),
        ("matrix.weight", "bfloat16", [8, 8], 128, shard.name),
        ("steps", "int64", [], 8, shard.name),
    ]


def test_a_report_is_plain_data(tmp_path: Path) -> None:
    report = inspect_checkpoint(str(save(tmp_path, limit="1B")), verify_checksums=True)
    assert json.loads(json.dumps(report)) == report


def test_every_shard_is_reported(tmp_path: Path) -> None:
    save(tmp_path, limit="1B")
    report = inspect_checkpoint(tmp_path)
    shards = [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
    assert [(file["name"], file["tensors"]) for file in report["files"]] == [(name, 1) for name in shards]
    assert {tensor["file"] for tensor in report["tensors"]} == set(shards)


@FORMATS
def test_the_generation_counts_saves_one_over_the_other(tmp_path: Path, safetensors: bool) -> None:
    for generation in (1, 2, 1):
        save(tmp_path, safetensors=safetensors, limit="1B")
        report = inspect_checkpoint(tmp_path)
        assert (report["generation"], report["notes"]) == (generation, [])


def test_a_single_file_has_neither_generation_nor_metadata(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(Net().state_dict(), file)
    for path in (tmp_path, file):
        report = inspect_checkpoint(path)
        assert (report["entry"], report["generation"], report["metadata"]) == (file.name, None, {})
        assert report["files"][0]["checksum"] is None
        assert report["notes"] == []
    assert inspect_checkpoint(file, verify_checksums=True)["files"][0]["verified"] is False


def test_index_path_is_accepted(tmp_path: Path) -> None:
    save(tmp_path, limit="1B")
    index = next(tmp_path.glob("*.index.json"))
    whole, named = inspect_checkpoint(tmp_path), inspect_checkpoint(index)
    assert named == whole | {"path": str(index)}


def test_checksums_are_verified_on_request(tmp_path: Path) -> None:
    save(tmp_path, limit="1B")
    steps: list[tuple[int, int]] = []
    report = inspect_checkpoint(tmp_path, verify_checksums=True, on_progress=lambda *step: steps.append(step))
    assert [file["verified"] for file in report["files"]] == [True] * 3
    assert steps[-1][0] == steps[-1][1] == sum(file["bytes"] for file in report["files"])
    shard = tmp_path / report["files"][1]["name"]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert inspect_checkpoint(tmp_path)["files"][1]["verified"] is None
    with pytest.raises(CheckpointError, match=f"{shard.name} has changed since it was saved"):
        inspect_checkpoint(tmp_path, verify_checksums=True)


def test_linked_directory_is_reported_like_its_target(tmp_path: Path) -> None:
    step = save(tmp_path / "checkpoints" / "checkpoint-4")
    link_checkpoint(tmp_path)
    report = inspect_checkpoint(tmp_path, verify_checksums=True)
    assert report["metadata"]["linked"] == "checkpoints/checkpoint-4"
    assert [file["verified"] for file in report["files"]] == [True]
    assert report["files"][0]["bytes"] == inspect_checkpoint(step)["files"][0]["bytes"]
    assert report["notes"] == []


# --- notes -----------------------------------------------------------------------------------------------------------


def test_second_checkpoint_is_noted(tmp_path: Path) -> None:
    save(tmp_path)
    torch.save(Net().state_dict(), tmp_path / "pytorch_model.bin")
    report = inspect_checkpoint(tmp_path)
    assert report["entry"] == "model.safetensors"
    (note,) = report["notes"]
    assert note.startswith("pytorch_model.bin is another checkpoint")
    assert "loaders prefer model.safetensors" in note


def test_shards_that_no_index_names_are_noted(tmp_path: Path) -> None:
    save(tmp_path)
    stray = ["model-2-00001-of-00003.safetensors", "pytorch_model-00002-of-00002.bin"]
    for name in stray:
        (tmp_path / name).write_bytes(b"")
    for name in ("model-notes.txt", "adapter_model.safetensors", "other.bin"):
        (tmp_path / name).write_bytes(b"")
    assert inspect_checkpoint(tmp_path)["notes"] == [f"weight files that no index lists: {', '.join(stray)}"]


def test_shards_of_a_second_checkpoint_are_not_stray(tmp_path: Path) -> None:
    save(tmp_path, limit="1B")
    save(tmp_path / "other", safetensors=False, limit="1B")
    for file in (tmp_path / "other").iterdir():
        file.rename(tmp_path / file.name)
    (note,) = inspect_checkpoint(tmp_path)["notes"]
    assert note.startswith("pytorch_model.bin.index.json is another checkpoint")


def test_wrong_total_size_is_noted(tmp_path: Path) -> None:
    save(tmp_path, limit="1B")
    edit_index(tmp_path, total_size=170)
    assert inspect_checkpoint(tmp_path)["notes"] == ["the index records total_size 170; the tensors have 168 bytes"]


def test_tensors_missing_from_the_index_are_noted(tmp_path: Path) -> None:
    save(tmp_path, limit="160B")
    file = next(tmp_path.glob("*.index.json"))
    content = json.loads(file.read_text())
    del content["weight_map"]["bias"]
    file.write_text(json.dumps(content))
    assert inspect_checkpoint(tmp_path)["notes"] == ["in a file but not in the index: bias"]


@FORMATS
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_is_noted_until_the_file_changes(tmp_path: Path, safetensors: bool, value: float) -> None:
    model = Net()
    model.bias.data[3] = value
    save(tmp_path / "one", model, safetensors=safetensors)
    save(tmp_path, model, safetensors=safetensors, limit="1B")
    for path in (tmp_path, tmp_path / "one"):
        assert inspect_checkpoint(path)["notes"] == ["contained NaN or Inf when saved: bias"]
    shard, index = next(tmp_path.glob("*-00001-of-*")), next(tmp_path.glob("*.index.json"))
    later = index.stat().st_mtime_ns + 10**9
    os.utime(shard, ns=(later, later))  # the record of the old file need not apply to the new one
    assert inspect_checkpoint(tmp_path)["notes"] == []


@pytest.mark.parametrize(
    ("text", "noted"),
    [
        ('{"dtype": "float32"}', True),
        ('{"torch_dtype": "float16"}', True),
        ('{"dtype": "bfloat16"}', False),
        ("{}", False),
        ("no JSON", False),
    ],
)
def test_a_configuration_of_another_dtype_is_noted(tmp_path: Path, text: str, noted: bool) -> None:
    save(tmp_path)
    (tmp_path / "config.json").write_text(text)
    notes = inspect_checkpoint(tmp_path)["notes"]
    assert [note.startswith("most weights are bfloat16; config.json names another dtype") for note in notes] == [
        True
    ] * noted


@pytest.mark.parametrize("name", [".checkpoint.tmp-999999-0123abcd", ".checkpoint.lock"])
def test_running_or_interrupted_save_is_noted(tmp_path: Path, name: str) -> None:
    save(tmp_path)
    (tmp_path / name).mkdir()
    (note,) = inspect_checkpoint(tmp_path)["notes"]
    assert "a save is in progress or was interrupted" in note
    assert (tmp_path / name).is_dir()  # inspection changes nothing


# --- what it takes ---------------------------------------------------------------------------------------------------


@FORMATS
def test_only_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safetensors: bool) -> None:
    save(tmp_path, Net(2300), safetensors=safetensors)
    count, preadv = 0, os.preadv

    def counting(descriptor: int, buffers: Any, offset: int, *rest: int) -> int:
        nonlocal count
        got = preadv(descriptor, buffers, offset, *rest)
        count += got
        return got

    def refuses(*_: object) -> None:
        raise AssertionError("mapped")

    monkeypatch.setattr(os, "preadv", counting)
    monkeypatch.setattr(WeightFile, "map", refuses)
    report = inspect_checkpoint(tmp_path)
    assert report["bytes"] > 10 * 10**6
    assert 0 < count < 100_000
    inspect_checkpoint(tmp_path, verify_checksums=True)
    assert count > 10 * 10**6


def test_inspection_leaves_files_and_descriptors_unchanged(tmp_path: Path) -> None:
    save(tmp_path, limit="1B")
    before = {entry.name: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()}
    open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    inspect_checkpoint(tmp_path, verify_checksums=True)
    (tmp_path / "model-00002-of-00003.safetensors").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="is missing"):
        inspect_checkpoint(tmp_path)
    (tmp_path / "gone").rename(tmp_path / "model-00002-of-00003.safetensors")
    assert len(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208
    assert {entry.name: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()} == before


def test_damage_is_reported_in_one_line(tmp_path: Path) -> None:
    shard = next(save(tmp_path / "a").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    (tmp_path / "b").mkdir()
    for path, named in ((tmp_path / "a", shard.name), (tmp_path / "b", "contains no weights"), (tmp_path / "c", "c")):
        with pytest.raises(CheckpointError, match=named) as caught:
            inspect_checkpoint(path)
        assert "\n" not in str(caught.value)


def test_report_matches_what_a_loader_reads(tmp_path: Path) -> None:
    save(tmp_path, limit="100B")
    reported = {tensor["name"]: tensor["file"] for tensor in inspect_checkpoint(tmp_path)["tensors"]}
    with Checkpoint.open(tmp_path) as opened:
        assert reported == {name: opened.file_of(name) for name in opened}
