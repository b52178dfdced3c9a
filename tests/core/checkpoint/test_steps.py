"""Checkpoints of a run: the latest, the next, rotation, and a directory that links to one."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from forgather_core.checkpoint import (
    Checkpoint,
    find_latest_checkpoint,
    link_checkpoint,
    load_checkpoint,
    next_checkpoint_path,
    rotate_checkpoints,
    save_checkpoint,
    step_checkpoints,
)
from forgather_core.errors import CheckpointError

LAYOUTS = pytest.mark.parametrize("inner", ["checkpoints", "."], ids=["DIR/checkpoints", "DIR"])
WEIGHTS = (".safetensors", ".bin", ".index.json")


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def save(path: Path, *, shards: bool = False) -> Path:
    """Write a small valid checkpoint."""
    save_checkpoint(path, net(), safetensors=True, max_shard_size=80 if shards else "5GB")
    return path


def run_of(place: Path, *steps: int) -> Path:
    """Write valid checkpoints of these steps into a directory."""
    for step in steps:
        save(place / f"checkpoint-{step}")
        (place / f"checkpoint-{step}" / "more.txt").touch()
    return place


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def truncated(path: Path) -> None:
    shard = next(save(path).glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-3])


def without_a_shard(path: Path) -> None:
    sorted(save(path, shards=True).glob("*.safetensors"))[1].unlink()


def empty(path: Path) -> None:
    path.mkdir()


def index_only(path: Path) -> None:
    path.mkdir()
    (path / "model.safetensors.index.json").write_text('{"weight_map": {')


def nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def plain_file(path: Path) -> None:
    path.write_text("no directory")


BROKEN: list[Callable[[Path], None]] = [truncated, without_a_shard, empty, index_only]
NONE_AT_ALL: list[Callable[[Path], None]] = [nowhere, plain_file]
BREAK = pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)


# --- the latest, the next --------------------------------------------------------------------------------------------


@LAYOUTS
def test_latest_checkpoint_has_the_highest_step(tmp_path: Path, inner: str) -> None:
    place = run_of(tmp_path / inner, 9, 10, 2)
    assert find_latest_checkpoint(tmp_path) == place / "checkpoint-10"
    assert [found.step for found in step_checkpoints(tmp_path)] == [2, 9, 10]
    assert all(found.problem is None for found in step_checkpoints(tmp_path))


def test_checkpoints_directory_is_accepted(tmp_path: Path) -> None:
    place = run_of(tmp_path / "checkpoints", 3)
    assert find_latest_checkpoint(place) == find_latest_checkpoint(str(tmp_path)) == place / "checkpoint-3"
    assert next_checkpoint_path(place) == next_checkpoint_path(tmp_path) == place / "checkpoint-4"


@pytest.mark.parametrize("make", BROKEN + NONE_AT_ALL, ids=lambda make: make.__name__)
@LAYOUTS
def test_broken_checkpoint_is_skipped(tmp_path: Path, inner: str, make: Callable[[Path], None]) -> None:
    place = run_of(tmp_path / inner, 1, 2)
    make(place / "checkpoint-11")
    assert find_latest_checkpoint(tmp_path) == place / "checkpoint-2"


@BREAK
def test_broken_checkpoint_is_reported_with_its_problem(tmp_path: Path, make: Callable[[Path], None]) -> None:
    place = run_of(tmp_path / "checkpoints", 1)
    make(place / "checkpoint-2")
    sound, broken = step_checkpoints(tmp_path)
    assert (sound.step, sound.problem) == (1, None)
    assert broken.step == 2
    assert "checkpoint-2" in (broken.problem or "")
    assert "\n" not in (broken.problem or "")


def test_no_checkpoints(tmp_path: Path) -> None:
    assert find_latest_checkpoint(tmp_path) is None
    assert find_latest_checkpoint(tmp_path / "nowhere") is None
    assert step_checkpoints(tmp_path / "nowhere") == []
    empty(tmp_path / "checkpoint-1")
    assert find_latest_checkpoint(tmp_path) is None
    plain_file(tmp_path / "file")
    assert find_latest_checkpoint(tmp_path / "file") is None


def test_similar_names_are_not_checkpoints(tmp_path: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-", "checkpoint-7-old", "my-checkpoint-8", "checkpoint--1", "run-9"):
        save(tmp_path / "checkpoints" / name)
    assert step_checkpoints(tmp_path) == []
    assert next_checkpoint_path(tmp_path).name == "checkpoint-0"


def test_next_path(tmp_path: Path) -> None:
    place = tmp_path / "checkpoints"
    assert next_checkpoint_path(tmp_path) == place / "checkpoint-0"
    assert next_checkpoint_path(tmp_path, 500) == place / "checkpoint-500"
    assert not place.exists()
    run_of(place, 9, 10)
    assert next_checkpoint_path(tmp_path) == place / "checkpoint-11"
    assert next_checkpoint_path(tmp_path, 3) == place / "checkpoint-3"
    with pytest.raises(CheckpointError, match=r"step must be at least 0, got -1"):
        next_checkpoint_path(tmp_path, -1)


@BREAK
def test_next_path_follows_a_broken_checkpoint(tmp_path: Path, make: Callable[[Path], None]) -> None:
    place = run_of(tmp_path / "checkpoints", 3)
    make(place / "checkpoint-20")
    assert next_checkpoint_path(tmp_path) == place / "checkpoint-21"


def test_next_path_is_beside_existing_checkpoints(tmp_path: Path) -> None:
    run_of(tmp_path, 4)
    assert next_checkpoint_path(tmp_path) == tmp_path / "checkpoint-5"
    save(next_checkpoint_path(tmp_path))
    assert find_latest_checkpoint(tmp_path) == tmp_path / "checkpoint-5"


# --- rotation --------------------------------------------------------------------------------------------------------


@LAYOUTS
@pytest.mark.parametrize("keep", [1, 2, 4, 9])
def test_latest_checkpoints_are_kept(tmp_path: Path, inner: str, keep: int) -> None:
    steps = [1, 2, 9, 10]
    place = run_of(tmp_path / inner, *steps)
    removed = rotate_checkpoints(tmp_path, keep)
    assert removed == tuple(place / f"checkpoint-{step}" for step in steps[:-keep])
    assert names(place) == sorted(f"checkpoint-{step}" for step in steps[-keep:])
    assert rotate_checkpoints(tmp_path, keep) == ()
    assert find_latest_checkpoint(tmp_path) == place / "checkpoint-10"


@pytest.mark.parametrize("module", ["forgather_core.checkpoint", "forgather.ml.sharded_checkpoint"])
def test_rotate_is_a_deprecated_alias(tmp_path: Path, module: str) -> None:
    run_of(tmp_path / "checkpoints", 1, 2, 3)
    owner = importlib.import_module(module)
    assert "rotate" not in owner.__all__
    with pytest.warns(DeprecationWarning, match="rotate is deprecated: use rotate_checkpoints") as caught:
        removed = owner.rotate(tmp_path, 2, best=tmp_path / "checkpoints" / "checkpoint-1")
    assert (removed, [warning.filename for warning in caught]) == ((), [__file__])
    with pytest.warns(DeprecationWarning):
        assert [path.name for path in owner.rotate(tmp_path, keep=2)] == ["checkpoint-1"]


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_none_is_refused(tmp_path: Path, keep: int) -> None:
    place = run_of(tmp_path / "checkpoints", 1, 2)
    with pytest.raises(CheckpointError, match="at least 1"):
        rotate_checkpoints(tmp_path, keep)
    assert names(place) == ["checkpoint-1", "checkpoint-2"]


def test_nothing_to_rotate(tmp_path: Path) -> None:
    assert rotate_checkpoints(tmp_path, 1) == ()
    assert rotate_checkpoints(tmp_path / "nowhere", 1) == ()
    assert names(tmp_path) == []


@LAYOUTS
def test_best_checkpoint_is_kept(tmp_path: Path, inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = run_of(tmp_path / inner, 1, 2, 3, 4)
    monkeypatch.chdir(place)
    assert rotate_checkpoints(tmp_path, 1, best="checkpoint-2") == (place / "checkpoint-1", place / "checkpoint-3")
    (tmp_path / "best").symlink_to(place / "checkpoint-2")
    assert rotate_checkpoints(tmp_path, 1, best=tmp_path / "best") == ()
    assert rotate_checkpoints(tmp_path, 1) == (place / "checkpoint-2",)


@LAYOUTS
@pytest.mark.parametrize("best", ["checkpoint-7", "checkpoint-5", "../other/checkpoint-1", "."])
def test_a_best_checkpoint_must_be_one_of_the_directory(tmp_path: Path, inner: str, best: str) -> None:
    place = run_of(tmp_path / "run" / inner, 1, 2, 3)
    save(place.parent / "other" / "checkpoint-1")
    (place / "checkpoint-5").mkdir()  # incomplete
    with pytest.raises(CheckpointError, match=r"^best: .* is not a complete checkpoint of .*; nothing was removed"):
        rotate_checkpoints(tmp_path / "run", 1, best=place / best)
    assert names(place) == [f"checkpoint-{step}" for step in (1, 2, 3, 5)]


@LAYOUTS
def test_linked_checkpoint_is_kept(tmp_path: Path, inner: str) -> None:
    place = run_of(tmp_path / inner, 1, 2, 3, 4)
    link_checkpoint(tmp_path, place / "checkpoint-2")
    assert rotate_checkpoints(tmp_path, 1) == (place / "checkpoint-1", place / "checkpoint-3")
    load_checkpoint(tmp_path, net(), strict=True)
    link_checkpoint(tmp_path)
    assert rotate_checkpoints(tmp_path, 1) == (place / "checkpoint-2",)


@BREAK
def test_broken_and_foreign_directories_are_kept_and_do_not_count(tmp_path: Path, make: Callable[[Path], None]) -> None:
    place = run_of(tmp_path / "checkpoints", 3, 5)
    make(place / "checkpoint-1")
    make(place / "checkpoint-9")
    save(place / "checkpoint-best")
    save(place / "other")
    plain_file(place / "checkpoint-2")
    assert rotate_checkpoints(tmp_path, 1) == (place / "checkpoint-3",)
    assert names(place) == [f"checkpoint-{which}" for which in ("1", "2", "5", "9", "best")] + ["other"]
    assert find_latest_checkpoint(tmp_path) == place / "checkpoint-5"


def test_only_the_link_of_a_linked_step_is_removed(tmp_path: Path) -> None:
    place = run_of(tmp_path / "checkpoints", 2, 3)
    elsewhere = save(tmp_path / "scratch" / "first")
    (place / "checkpoint-1").symlink_to(elsewhere)
    assert rotate_checkpoints(tmp_path, 2) == (place / "checkpoint-1",)
    assert names(place) == ["checkpoint-2", "checkpoint-3"]
    load_checkpoint(elsewhere, net(), strict=True)


def test_interrupted_removal_leaves_no_partial_checkpoint_and_is_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = run_of(tmp_path / "checkpoints", 1, 2, 3)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", _dies_half_way)
        with pytest.raises(KeyboardInterrupt):
            rotate_checkpoints(tmp_path, 1)
    left = [name for name in names(place) if name.startswith(".checkpoint-1.tmp-")]
    assert len(left) == 1
    assert names(place) == [*left, "checkpoint-2", "checkpoint-3"]
    assert [found.step for found in step_checkpoints(tmp_path)] == [2, 3]
    assert rotate_checkpoints(tmp_path, 2) == ()
    assert names(place) == ["checkpoint-2", "checkpoint-3"]


def _dies_half_way(path: Path) -> None:
    next(Path(path).iterdir()).unlink()
    raise KeyboardInterrupt


def test_failed_removal_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of(tmp_path / "checkpoints", 1, 2)

    def refuses(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuses)
    with pytest.raises(CheckpointError, match="Permission denied") as caught:
        rotate_checkpoints(tmp_path, 1)
    assert "\n" not in str(caught.value)


# --- links -----------------------------------------------------------------------------------------------------------


def llama(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))


def trained(directory: Path, *steps: int, safetensors: bool = True, limit: str = "5GB") -> Path:
    """Return a model directory without its own weights, with checkpoints seeded by their steps."""
    for step in steps:
        model = llama(step)
        model.config.save_pretrained(directory)
        place = directory / "checkpoints" / f"checkpoint-{step}"
        save_checkpoint(place, model, safetensors=safetensors, max_shard_size=limit)
    return directory


def holds(directory: Path, step: int) -> bool:
    """Return whether a directory loads as the model of a step, with both loaders."""
    expected, ours = llama(step).state_dict(), llama(99)
    report = load_checkpoint(directory, ours, strict=True, verify_checksums=True)
    assert report.verified
    assert not report.unverified
    theirs = AutoModelForCausalLM.from_pretrained(directory).state_dict()
    return all(
        torch.equal(ours.state_dict()[name], value) and torch.equal(theirs[name], value)
        for name, value in expected.items()
    )


def ours_is(directory: Path) -> int | None:
    """Return the step of the model that a directory loads as; None for any other model."""
    model = llama(99)
    load_checkpoint(directory, model, strict=True)
    found = model.state_dict()
    for step in (1, 2, 3):
        if all(torch.equal(found[name], value) for name, value in llama(step).state_dict().items()):
            return step
    return None


def links(directory: Path) -> list[str]:
    return [name for name in names(directory) if name.endswith(WEIGHTS) and (directory / name).is_symlink()]


def only_what_the_index_names(directory: Path) -> bool:
    """Return whether there are no other weight files, links or leftovers."""
    index = json.loads(next(directory.glob("*.index.json")).read_text())
    rest = [name for name in names(directory) if not name.endswith(".index.json")]
    return sorted({*index["weight_map"].values(), "checkpoints", "config.json"}) == rest


@pytest.mark.parametrize("safetensors", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("limit", ["5GB", "3KB"])
def test_a_linked_directory_loads_as_its_latest_checkpoint(tmp_path: Path, limit: str, safetensors: bool) -> None:
    directory = trained(tmp_path / "model", 1, 2, safetensors=safetensors, limit=limit)
    assert link_checkpoint(directory) == directory / "checkpoints" / "checkpoint-2"
    assert holds(directory, 2)
    assert only_what_the_index_names(directory)
    assert link_checkpoint(str(directory), directory / "checkpoints" / "checkpoint-1").name == "checkpoint-1"
    assert holds(directory, 1)
    assert only_what_the_index_names(directory)


def test_index_of_a_linked_directory_records_its_target(tmp_path: Path) -> None:
    directory = trained(tmp_path / "model", 1)
    link_checkpoint(directory)
    with Checkpoint.open(directory) as opened:
        assert opened.index is not None
        assert opened.index.metadata["linked"] == "checkpoints/checkpoint-1"


def test_linking_another_format_removes_the_old_links(tmp_path: Path) -> None:
    directory = trained(tmp_path / "model", 1, safetensors=True, limit="3KB")
    link_checkpoint(directory)
    many = links(directory)
    trained(directory, 2, safetensors=False)
    link_checkpoint(directory)
    assert holds(directory, 2)
    assert only_what_the_index_names(directory)
    assert len(links(directory)) == 1 < len(many)
    trained(directory, 3, safetensors=True, limit="4KB")
    link_checkpoint(directory)
    assert holds(directory, 3)
    assert only_what_the_index_names(directory)
    for _ in range(2):  # twice, to the same checkpoint
        link_checkpoint(directory)
        assert holds(directory, 3)
        assert only_what_the_index_names(directory)


def test_a_checkpoint_that_another_program_saved_can_be_linked(tmp_path: Path) -> None:
    directory = trained(tmp_path / "model", 1)
    llama(2).save_pretrained(directory / "checkpoints" / "checkpoint-2")
    link_checkpoint(directory)
    model = llama(99)
    with pytest.warns(UserWarning, match="has no recorded checksum"):
        report = load_checkpoint(directory, model, strict=True, verify_checksums=True)
    assert report.verified == ()
    assert len(report.unverified) == 1
    assert ours_is(directory) == 2
    assert only_what_the_index_names(directory)


def test_checksums_are_compared_through_links(tmp_path: Path) -> None:
    directory = trained(tmp_path / "model", 1, limit="3KB")
    link_checkpoint(directory)
    file = sorted((directory / "checkpoints" / "checkpoint-1").glob("*.safetensors"))[1]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="has changed since it was saved"):
        load_checkpoint(directory, llama(0), verify_checksums=True)


def test_the_whole_directory_can_be_moved(tmp_path: Path) -> None:
    directory = trained(tmp_path / "model", 1, limit="3KB")
    link_checkpoint(directory)
    assert all(not (directory / name).readlink().is_absolute() for name in links(directory))
    moved = tmp_path / "some" / "where" / "else"
    moved.parent.mkdir(parents=True)
    directory.rename(moved)
    assert holds(moved, 1)


def test_paths_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "runs" / "model", 1, 2)
    monkeypatch.chdir(tmp_path / "runs")
    link_checkpoint("model", "model/checkpoints/checkpoint-1")
    assert ours_is(tmp_path / "runs" / "model") == 1
    monkeypatch.chdir(tmp_path / "runs" / "model")
    link_checkpoint(".")
    assert ours_is(tmp_path / "runs" / "model") == 2


def test_the_directory_may_be_reached_through_a_link(tmp_path: Path) -> None:
    directory = trained(tmp_path / "a" / "b" / "model", 1)
    (tmp_path / "alias").symlink_to(directory)
    link_checkpoint(tmp_path / "alias")
    assert ours_is(directory) == 1
    elsewhere = tmp_path / "elsewhere"
    save_checkpoint(elsewhere, llama(3))
    link_checkpoint(tmp_path / "alias", elsewhere)
    assert ours_is(directory) == 3


@pytest.mark.parametrize("which", ["file", "index"])
def test_file_path_instead_of_its_directory(tmp_path: Path, which: str) -> None:
    """Either the checkpoint is linked, or the call is refused and nothing changes."""
    directory = trained(tmp_path / "model", 1, 2, limit="5GB" if which == "file" else "1KB")
    link_checkpoint(directory)
    target = directory / "checkpoints" / "checkpoint-1"
    named = next(target.glob("*.safetensors" if which == "file" else "*.index.json"))
    try:
        link_checkpoint(directory, named)
    except CheckpointError:
        assert holds(directory, 2)
    else:
        assert ours_is(directory) == 1


def test_a_linked_directory_linked_to_itself_still_loads(tmp_path: Path) -> None:
    """Either nothing changes, or the call is refused."""
    directory = trained(tmp_path / "model", 1)
    link_checkpoint(directory)
    try:
        link_checkpoint(directory, directory)
    except CheckpointError as error:
        assert "\n" not in str(error)
    assert holds(directory, 1)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "ours"])
def test_own_weights_are_not_replaced(tmp_path: Path, name: str) -> None:
    directory = trained(tmp_path / "model", 1)
    if name == "ours":
        save_checkpoint(directory, llama(2), safetensors=True, max_shard_size="3KB")
    elif name == "model.safetensors":
        llama(2).save_pretrained(directory)
    else:
        torch.save(llama(2).state_dict(), directory / name)
    before = names(directory)
    with pytest.raises(CheckpointError, match="its own weights"):
        link_checkpoint(directory)
    assert names(directory) == before
    assert ours_is(directory) == 2


def test_nothing_to_link_to(tmp_path: Path) -> None:
    empty(tmp_path / "checkpoint-1")
    with pytest.raises(CheckpointError, match="no checkpoint that opens"):
        link_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        link_checkpoint(tmp_path, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="contains no weights"):
        link_checkpoint(tmp_path, tmp_path / "checkpoint-1")
    assert names(tmp_path) == ["checkpoint-1"]


def test_a_damaged_checkpoint_leaves_the_old_links(tmp_path: Path) -> None:
    directory = trained(tmp_path / "model", 1)
    link_checkpoint(directory)
    truncated(directory / "checkpoints" / "checkpoint-2")
    with pytest.raises(CheckpointError, match="checkpoint-2"):
        link_checkpoint(directory, directory / "checkpoints" / "checkpoint-2")
    assert link_checkpoint(directory).name == "checkpoint-1"
    assert holds(directory, 1)


def test_save_in_a_linked_directory_keeps_the_linked_checkpoint(tmp_path: Path) -> None:
    directory = trained(tmp_path / "model", 1)
    link_checkpoint(directory)
    save_checkpoint(directory, llama(2), safetensors=True)
    assert links(directory) == []
    assert ours_is(directory) == 2
    assert ours_is(directory / "checkpoints" / "checkpoint-1") == 1


class Counted:
    """Replace a system call from its n-th use on."""

    def __init__(self, call: Callable[..., None], at: int, instead: Callable[[], None]) -> None:
        self.call, self.at, self.instead, self.count = call, at, instead, 0

    def __call__(self, *arguments: Any, **more: Any) -> None:
        self.count += 1
        if self.count >= self.at:
            self.instead()
        self.call(*arguments, **more)


def _disk_fails() -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("safetensors", [True, False], ids=["same format", "other format"])
def test_failing_disk_leaves_the_old_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safetensors: bool) -> None:
    directory = trained(tmp_path / "model", 1, limit="5KB")
    trained(directory, 2, safetensors=safetensors, limit="4KB")
    link_checkpoint(directory, directory / "checkpoints" / "checkpoint-1")
    before = names(directory)
    at, failed = 0, True
    while failed:
        at += 1
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", Counted(os.rename, at, _disk_fails))
            try:
                link_checkpoint(directory)
            except CheckpointError as error:
                assert "Input/output error" in str(error)
            else:
                failed = False
        assert ours_is(directory) == (1 if failed else 2)
        assert not failed or names(directory) == before, at
    assert at > 3  # each link and the index are renamed
    assert holds(directory, 2)
    assert only_what_the_index_names(directory)


@pytest.mark.few(1)
@pytest.mark.parametrize("call", ["rename", "unlink", "fsync"])
def test_killed_process_leaves_the_old_or_the_new_links(tmp_path: Path, call: str) -> None:
    directory = trained(tmp_path / "model", 1, limit="5KB")
    trained(directory, 2, safetensors=False, limit="7KB")
    latest = directory / "checkpoints" / "checkpoint-1"
    link_checkpoint(directory, latest)
    for at in range(1, 30):
        latest = directory / "checkpoints" / f"checkpoint-{2 if latest.name == 'checkpoint-1' else 1}"
        before = ours_is(directory)
        child = os.fork()
        if child == 0:
            setattr(os, call, Counted(getattr(os, call), at, lambda: os._exit(9)))
            code = 1
            try:
                link_checkpoint(directory, latest)
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in {0, 9}
        assert ours_is(directory) in {before, int(latest.name[-1])}
        link_checkpoint(directory, latest)
        assert ours_is(directory) == int(latest.name[-1])
        assert only_what_the_index_names(directory)
        if code == 0:
            break
    assert code == 0
    assert at > 2
