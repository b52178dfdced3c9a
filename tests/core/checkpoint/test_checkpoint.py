"""Checkpoints round-trip in Hugging Face's format; damaged, foreign or hostile ones are refused in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from forgather_core.checkpoint import Checkpoint, load_checkpoint, load_into, parse_size, save_checkpoint
from forgather_core.errors import CheckpointError


class Net(nn.Module):
    """Two linear layers that may share one matrix, and a buffer."""

    def __init__(self, *, tied: bool = False, width: int = 8, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, width, dtype=dtype)
        self.middle = nn.Linear(width, width, dtype=dtype)
        self.head = nn.Linear(width, 16, bias=False, dtype=dtype)
        self.register_buffer("steps", torch.tensor(7))
        if tied:
            self.head.weight = self.embed.weight
            self._tied_weights_keys = self.all_tied_weights_keys = {"head.weight": "embed.weight"}


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize("limit", ["5GB", "600B", "1B"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("safetensors", [False, True])
def test_round_trip(tmp_path: Path, safetensors: bool, tied: bool, limit: str) -> None:
    model, other = Net(tied=tied), Net(tied=tied)
    saved = save_checkpoint(tmp_path, model, safetensors=safetensors, max_shard_size=limit)
    assert sorted(saved.files) == sorted(names(tmp_path))
    report = load_checkpoint(tmp_path, other)
    assert same(model, other)
    assert (len(report.loaded), report.missing, report.unexpected) == (5, (), ())
    assert saved.tensors == (4 if tied else 5)
    indexes = [json.loads(file.read_text()) for file in tmp_path.glob("*.index.json")]
    assert [index["metadata"]["total_size"] for index in indexes] == [saved.bytes] * (limit != "5GB")
    assert len(saved.files) == {"5GB": 1, "600B": 3, "1B": saved.tensors + 1}[limit] + (limit == "600B" and not tied)


def test_files_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path, Net(), safetensors=True)
    finally:
        os.umask(before)
    assert {oct(p.stat().st_mode & 0o777) for p in tmp_path.iterdir()} == {"0o640"}


@pytest.mark.parametrize("first", ["model.safetensors", "pytorch_model.bin", "ours, safetensors", "ours, bin"])
@pytest.mark.parametrize("safetensors", [False, True])
def test_save_replaces_a_checkpoint_of_any_format(tmp_path: Path, safetensors: bool, first: str) -> None:
    old, new, loaded = Net(), Net(), Net()
    if first == "model.safetensors":
        from safetensors.torch import save_file

        save_file(old.state_dict(), tmp_path / first)
    elif first == "pytorch_model.bin":
        torch.save(old.state_dict(), tmp_path / first)
    else:
        save_checkpoint(tmp_path, old, safetensors=first.endswith("safetensors"), max_shard_size=600)
    notes = tmp_path / "model-notes.txt"
    notes.write_text("mine")
    saved = save_checkpoint(tmp_path, new, safetensors=safetensors)
    load_checkpoint(tmp_path, loaded)
    assert same(new, loaded)
    assert sorted(names(tmp_path)) == sorted([*saved.files, notes.name])


@pytest.mark.parametrize("safetensors", [False, True])
def test_a_save_that_fails_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safetensors: bool
) -> None:
    old, loaded = Net(), Net()
    before = save_checkpoint(tmp_path, old, safetensors=safetensors, max_shard_size=600)
    calls = fail_at = 0

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("forgather_core.checkpoint.write.weight_stream.sync_file", failing)
        patch.setattr("forgather_core.checkpoint.write.commit.sync_file", failing)
        for number in range(1, 6):  # each of three shards, the journal, the index
            calls, fail_at = 0, number
            with pytest.raises(CheckpointError, match="No space left"):
                save_checkpoint(tmp_path, Net(), safetensors=not safetensors, max_shard_size=600)
            load_checkpoint(tmp_path, loaded)
            assert same(old, loaded)
    after = save_checkpoint(tmp_path, Net(), safetensors=safetensors)
    assert sorted(names(tmp_path)) == sorted(after.files)
    assert before.files != after.files


def test_a_checkpoint_outlives_its_directory(tmp_path: Path) -> None:
    model, other = Net(), Net()
    for safetensors in (False, True):
        directory = tmp_path / str(safetensors)
        save_checkpoint(directory, model, safetensors=safetensors)
        with Checkpoint.open(directory) as checkpoint:
            shutil.rmtree(directory)
            load_into(other, checkpoint)
        assert same(model, other)


def test_values_are_cast_to_the_dtype_of_the_model(tmp_path: Path) -> None:
    model, other = Net(), Net(dtype=torch.bfloat16)
    save_checkpoint(tmp_path, model)
    load_checkpoint(tmp_path, other)
    assert torch.equal(other.embed.weight, model.embed.weight.bfloat16())


def test_missing_and_unexpected_tensors_are_reported(tmp_path: Path) -> None:
    model, other = Net(), Net()
    state = model.state_dict()
    state["midle.weight"] = state.pop("middle.weight")
    torch.save(state, tmp_path / "pytorch_model.bin")
    kept = other.middle.weight.detach().clone()
    with pytest.warns(UserWarning) as said:
        report = load_checkpoint(tmp_path, other)
    assert [re.sub(str(tmp_path), "there", str(item.message)) for item in said] == [
        "1 tensor of the model is missing from there: middle.weight",
        "1 tensor of there is not in the model: midle.weight",
    ]
    assert [(m.name, m.hint) for m in report.missing] == [("middle.weight", "the checkpoint has midle.weight")]
    assert report.unexpected == ("midle.weight",)
    assert torch.equal(other.middle.weight, kept)
    with pytest.raises(CheckpointError, match=r"missing from the checkpoint: middle\.weight.* nothing was loaded"):
        load_checkpoint(tmp_path, other, strict=True)


def test_ties_only_in_the_model_or_only_in_the_checkpoint(tmp_path: Path) -> None:
    tied, untied = Net(tied=True), Net()
    save_checkpoint(tmp_path / "untied", untied)
    with pytest.warns(UserWarning, match=r"not in the model: head\.weight"):
        report = load_checkpoint(tmp_path / "untied", tied)
    assert report.unexpected == ("head.weight",)
    assert torch.equal(tied.head.weight, untied.embed.weight)
    save_checkpoint(tmp_path / "tied", tied)
    untied._tied_weights_keys = {"head.weight": "embed.weight"}
    with pytest.warns(UserWarning, match=r"missing .*head\.weight"):
        report = load_checkpoint(tmp_path / "tied", untied)
    assert "--tie-word-embeddings" in (report.missing[0].hint or "")


def test_nothing_is_loaded_if_one_tensor_does_not_fit(tmp_path: Path) -> None:
    model = Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_checkpoint(tmp_path, Net(width=6))
    with pytest.raises(CheckpointError, match=r"embed\.weight \(expected 16 x 8, got 16 x 6\)"):
        load_checkpoint(tmp_path, model, strict=True)
    state = Net().state_dict() | {"embed.weight": torch.ones(16, 8, dtype=torch.int64)}
    torch.save(state, tmp_path / "whole.bin")
    with pytest.raises(CheckpointError, match=r"expected float32, got int64"):
        load_checkpoint(tmp_path / "whole.bin", model)
    torch.save({"other": torch.ones(1)}, tmp_path / "whole.bin")
    with pytest.raises(CheckpointError, match="load a checkpoint of this model"):
        load_checkpoint(tmp_path / "whole.bin", model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["../model.bin", "/etc/passwd", "..", "", "a/b.bin", 3, "x\0y"])
def test_index_must_not_leave_its_directory(tmp_path: Path, name: object) -> None:
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"embed.weight": name}}))
    with pytest.raises(CheckpointError, match="not a file name"):
        Checkpoint.open(tmp_path)


def test_shards_may_be_links_as_in_the_hub_cache(tmp_path: Path) -> None:
    model, other = Net(), Net()
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    saved = save_checkpoint(blobs, model, safetensors=True)
    snapshot.mkdir()
    for name in saved.files:
        (snapshot / name).symlink_to(blobs / name)
    load_checkpoint(snapshot, other)
    assert same(model, other)


class Opens:
    """Run a program when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (os.system, ("touch owned",))


def test_damaged_hostile_and_missing_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved = save_checkpoint(tmp_path / "a", Net(), safetensors=True, max_shard_size=600)
    shard = tmp_path / "a" / saved.files[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-5])
    with pytest.raises(CheckpointError, match=shard.name):
        Checkpoint.open(tmp_path / "a")
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} is missing"):
        Checkpoint.open(tmp_path / "a")
    os.mkfifo(shard)
    with pytest.raises(CheckpointError, match="not a regular file"):
        Checkpoint.open(tmp_path / "a")
    shard.unlink()
    shutil.copy(tmp_path / "a" / saved.files[1], shard)
    with pytest.raises(CheckpointError, match="contains too"):
        Checkpoint.open(tmp_path / "a")
    for content in (b"", b"[1]", b"{}", b'{"weight_map": 3}', b"\xff"):
        (tmp_path / "x.index.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"not a checkpoint index"):
            Checkpoint.open(tmp_path / "x.index.json")
    torch.save({"embed.weight": Opens()}, tmp_path / "evil.bin")
    with pytest.raises(CheckpointError, match="which is not run"):
        Checkpoint.open(tmp_path / "evil.bin")
    assert not (tmp_path / "owned").exists()
    for content in (b"", b"PK\x03\x04 no archive", b"hello"):
        (tmp_path / "no.bin").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"no\.bin"):
            Checkpoint.open(tmp_path / "no.bin")
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(CheckpointError, match="not a mapping"):
        Checkpoint.open(tmp_path / "list.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="contains no weights"):
        Checkpoint.open(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="nowhere does not exist: name a model directory"):
        Checkpoint.open(tmp_path / "nowhere")


def test_errors_have_the_file_and_what_to_do(tmp_path: Path) -> None:
    def fields_of(name: str) -> dict[str, object]:
        with pytest.raises(CheckpointError) as caught:
            Checkpoint.open(tmp_path / name)
        return caught.value.fields()

    found = fields_of("nowhere")
    assert (found["problem"], found["file"]) == ("does not exist", str(tmp_path / "nowhere"))
    assert found["hint"] == "name a model directory, a weight file or an index"
    save_checkpoint(tmp_path / "a", Net(), safetensors=True)
    (tmp_path / "a" / "model.safetensors").rename(tmp_path / "a.bin")
    found = fields_of("a.bin")
    assert (found["file"], found["hint"]) == (str(tmp_path / "a.bin"), "change its suffix to .safetensors")
    assert str(found["problem"]).endswith("it is a safetensors file")
    (tmp_path / "a" / "model.gguf").touch()
    found = fields_of("a")
    assert (found["file"], found["hint"]) == (
        str(tmp_path / "a"),
        "load the Hugging Face checkpoint that it was converted from",
    )


def test_errors_of_a_load_and_of_sizes_have_fields(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Net())
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path, Net(width=4))
    assert caught.value.file == str(tmp_path)
    assert str(caught.value.hint).startswith("to load the others, use --ignore-mismatched-sizes")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path, nn.Sequential(Net()), strict=True, device="meta")
    assert caught.value.file == str(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        parse_size("5 parsecs")
    problem = "must be a positive size; got '5 parsecs'"
    assert (caught.value.option, caught.value.problem) == ("--max-shard-size", problem)
    assert caught.value.hint == "use for example 500MB, 5GB or 2GiB"


def test_a_directory_that_cannot_be_written_is_the_file_of_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(tmp_path / "file" / "model", Net())
    assert caught.value.file == str(tmp_path / "file" / "model")
    assert caught.value.problem.startswith("cannot be written: ")


def test_saving_from_and_loading_to_meta_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Net())
    with torch.device("meta"):
        model = Net()
    with pytest.raises(CheckpointError, match="meta"):
        save_checkpoint(tmp_path, model)
    with pytest.raises(CheckpointError, match="pass a real device"):
        load_checkpoint(tmp_path, model)
    load_checkpoint(tmp_path, model, device="cpu")
    assert same(model, model.cpu())


def test_view_is_saved_without_its_base(tmp_path: Path) -> None:
    model = Net()
    model.embed.weight = nn.Parameter(torch.randn(10_000, 8)[:16])
    saved = save_checkpoint(tmp_path, model)
    assert (tmp_path / saved.files[0]).stat().st_size < 20_000


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("500mb", 5 * 10**8), ("1.5 GiB", 3 * 2**29), ("7", 7), ("2KiB", 2048)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5 parsecs", "1e3"])
def test_invalid_sizes(text: str) -> None:
    with pytest.raises(CheckpointError, match="must be a positive size"):
        parse_size(text)
