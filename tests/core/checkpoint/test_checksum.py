"""Checksums of weight files: the algorithm, where they stand, and that those of earlier releases are still checked."""

import hashlib
import json
from pathlib import Path

import pytest
from torch import nn

from forgather.ml.sharded_checkpoint import load_checkpoint, save_checkpoint
from forgather_core.checkpoint.write.steps import link_checkpoint
from forgather_core.errors import CheckpointError

INDEX = "pytorch_model.bin.index.json"


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(300, 1000)


@pytest.fixture
def directory(model: nn.Module, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "saved", model, max_shard_size=1)
    return tmp_path / "saved"


def record_sha256(directory: Path) -> None:
    """Give an index the form that earlier releases wrote."""
    index = json.loads((directory / INDEX).read_text())
    metadata = {key: value for key, value in index["metadata"].items() if key != "checksums"}
    files = sorted(set(index["weight_map"].values()))
    metadata["sha256"] = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in files}
    (directory / INDEX).write_text(json.dumps(index | {"metadata": metadata}))


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("linked", [False, True])
def test_a_checksum_of_either_algorithm_is_checked(directory: Path, model: nn.Module, old: bool, linked: bool) -> None:
    files = sorted(directory.glob("*.bin"))
    if old:
        record_sha256(directory)
    place = directory
    if linked:
        place = directory.parent / "model"
        place.mkdir()
        link_checkpoint(place, directory)
    report = load_checkpoint(place, model, verify_checksums=True)
    assert len(report.verified or ()) == len(files) == 2
    damage(files[1])
    with pytest.raises(CheckpointError, match=f"has changed since it was saved: its {'sha256' if old else 'xxh3_128'}"):
        load_checkpoint(place, model, verify_checksums=True)


def test_a_checksum_of_an_unknown_algorithm_is_not_verified(directory: Path, model: nn.Module) -> None:
    index = json.loads((directory / INDEX).read_text())
    checksums = index["metadata"]["checksums"]
    checksums[min(checksums)] = "blake9:00"
    (directory / INDEX).write_text(json.dumps(index))
    with pytest.warns(UserWarning, match="no checksum is recorded"):
        report = load_checkpoint(directory, model, verify_checksums=True)
    assert (report.verified, report.unverified) == ((max(checksums),), (min(checksums),))


@pytest.mark.regression("sha256-of-weights")
@pytest.mark.parametrize("safetensors", [False, True])
def test_no_weights_are_hashed_with_sha256(
    tmp_path: Path, model: nn.Module, safetensors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []

    class Counted:
        def __init__(self, data: bytes = b"") -> None:
            self._inner = _SHA256(data)
            hashed.append(len(data))

        def update(self, data: bytes) -> None:
            hashed.append(memoryview(data).nbytes)
            self._inner.update(data)

        def digest(self) -> bytes:
            return self._inner.digest()

        def hexdigest(self) -> str:
            return self._inner.hexdigest()

    monkeypatch.setattr(hashlib, "sha256", Counted)
    save_checkpoint(tmp_path, model, safetensors=safetensors)
    size = sum(parameter.nbytes for parameter in model.parameters())
    assert sum(hashed) < size / 10, "SHA-256 reads less than 1 GB/s on processors without instructions for it"


_SHA256 = hashlib.sha256
