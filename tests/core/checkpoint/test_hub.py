"""A Hub repository in the local cache, a snapshot of links to blobs, is found without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from forgather_core.checkpoint import Checkpoint, convert_checkpoint, inspect_checkpoint, load_checkpoint
from forgather_core.checkpoint import save_checkpoint as save
from forgather_core.checkpoint.read.hub import is_hub_id
from forgather_core.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "org/tiny-model"

Publish = Callable[[Path], Path]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set an empty cache, no network, and a working directory without a repository's name."""
    home = tmp_path / "hf"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # The package reads these when it is imported, which may have happened earlier.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(home))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return home / "hub"


@pytest.fixture
def publish(cache: Path) -> Publish:
    """Put the files of a directory into the cache like a download, and return their snapshot."""

    def run(source: Path) -> Path:
        place = cache / f"models--{REPOSITORY.replace('/', '--')}"
        snapshot = place / "snapshots" / COMMIT
        for directory in (place / "refs", place / "blobs", snapshot):
            directory.mkdir(parents=True, exist_ok=True)
        (place / "refs" / "main").write_text(COMMIT)
        for file in source.iterdir():
            data = file.read_bytes()
            blob = hashlib.sha256(data).hexdigest()
            (place / "blobs" / blob).write_bytes(data)
            (snapshot / file.name).symlink_to(Path("..", "..", "blobs", blob))
        return snapshot

    return run


@pytest.mark.parametrize("limit", ["5GB", "80B"])
@pytest.mark.parametrize("safetensors", [True, False], ids=["safetensors", "bin"])
def test_a_sharded_checkpoint_loads(tmp_path: Path, publish: Publish, safetensors: bool, limit: str) -> None:
    model, other = net(), net()
    save(tmp_path / "a", model, safetensors=safetensors, max_shard_size=limit)
    publish(tmp_path / "a")
    report = load_checkpoint(REPOSITORY, other, strict=True, verify_checksums=True)
    assert same(model, other)
    assert str(report.path) == REPOSITORY
    assert report.verified
    assert not report.unverified


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_single_file_loads(tmp_path: Path, publish: Publish, name: str) -> None:
    model, other = net(), net()
    (tmp_path / "a").mkdir()
    if name.endswith(".bin"):
        torch.save(model.state_dict(), tmp_path / "a" / name)
    else:
        save_file(model.state_dict(), tmp_path / "a" / name)
    snapshot = publish(tmp_path / "a")
    load_checkpoint(REPOSITORY, other, strict=True)
    assert same(model, other)
    with Checkpoint.open(REPOSITORY) as opened:
        assert opened.entry == snapshot / name
        assert opened.path == Path(REPOSITORY)


def test_safetensors_are_preferred(tmp_path: Path, publish: Publish) -> None:
    model, other = net(), net()
    (tmp_path / "a").mkdir()
    save_file(model.state_dict(), tmp_path / "a" / "model.safetensors")
    torch.save(net().state_dict(), tmp_path / "a" / "pytorch_model.bin")
    publish(tmp_path / "a")
    load_checkpoint(REPOSITORY, other, strict=True)
    assert same(model, other)


def test_it_can_be_inspected_and_converted(tmp_path: Path, publish: Publish) -> None:
    model, other = net(), net()
    save(tmp_path / "a", model, max_shard_size="80B")
    publish(tmp_path / "a")
    report = inspect_checkpoint(REPOSITORY, verify_checksums=True)
    assert report["path"] == REPOSITORY
    assert all(file["verified"] for file in report["files"])
    convert_checkpoint(REPOSITORY, tmp_path / "b", format="safetensors")
    load_checkpoint(tmp_path / "b", other, strict=True)
    assert same(model, other)


def test_path_of_the_snapshot_is_accepted(tmp_path: Path, publish: Publish) -> None:
    model, other = net(), net()
    save(tmp_path / "a", model, max_shard_size="80B")
    load_checkpoint(publish(tmp_path / "a"), other, strict=True, verify_checksums=True)
    assert same(model, other)


def test_missing_in_cache_is_reported_in_one_line(tmp_path: Path, publish: Publish) -> None:
    model = net()
    with pytest.raises(
        CheckpointError,
        match=f"{REPOSITORY} is neither a local directory .*offline mode is on: unset HF_HUB_OFFLINE, or name a",
    ) as caught:
        load_checkpoint(REPOSITORY, model)
    assert "\n" not in str(caught.value)
    save(tmp_path / "a", model, max_shard_size="80B")
    snapshot = publish(tmp_path / "a")
    sorted(snapshot.glob("*.bin"))[1].unlink()
    with pytest.raises(CheckpointError, match=r"models--org--tiny-model.* is missing") as caught:
        Checkpoint.open(REPOSITORY)
    assert "\n" not in str(caught.value)


def test_damaged_blob_is_reported_in_one_line(tmp_path: Path, publish: Publish) -> None:
    save(tmp_path / "a", net(), safetensors=True)
    snapshot = publish(tmp_path / "a")
    shard = next(snapshot.glob("*.safetensors"))
    shard.resolve().write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=shard.name) as caught:
        Checkpoint.open(REPOSITORY)
    assert "\n" not in str(caught.value)


def test_directory_of_the_same_name_takes_precedence(tmp_path: Path, publish: Publish) -> None:
    remote, local, other = net(), net(), net()
    save(tmp_path / "a", remote)
    publish(tmp_path / "a")
    save(REPOSITORY, local)
    load_checkpoint(REPOSITORY, other, strict=True)
    assert same(local, other)


def test_empty_directory_of_the_same_name_takes_precedence(tmp_path: Path, publish: Publish) -> None:
    save(tmp_path / "a", net())
    publish(tmp_path / "a")
    Path(REPOSITORY).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="contains no weights"):
        Checkpoint.open(REPOSITORY)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", True),
        ("Org-1/name_2.5-B", True),
        ("name", False),
        ("./name", False),
        ("../name", False),
        ("/org/name", False),
        ("a/b/c", False),
        ("org/", False),
        ("~/name", False),
        ("org/na me", False),
        ("org/name\n", False),
    ],
)
def test_hub_ids(text: str, expected: bool) -> None:
    assert is_hub_id(text) is expected
