"""A full, failing or read-only disk: an error in one line, the old checkpoint intact, no leftovers."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forgather_core.checkpoint import save_checkpoint
from forgather_core.errors import CheckpointError

from .conftest import Restore, file_system
from .models import generation_of, model_of, save, tree
from .scenarios import LATER, NEW, OLD, SCENARIOS, SHARDED
from .server import Server
from .steps import Steps

pytestmark = pytest.mark.faults

UNPRIVILEGED = 65534
FAILURES = {
    "full": (errno.ENOSPC, "No space left"),
    "quota": (errno.EDQUOT, "quota exceeded"),
    "broken": (errno.EIO, "Input/output error"),
    "read-only": (errno.EROFS, "Read-only file system"),
}


@pytest.mark.few(15)
@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_any_failing_call_leaves_the_old_checkpoint(restore: Restore, name: str, kind: str) -> None:
    """Each call that writes fails once, and the next save succeeds."""
    code, text = FAILURES[kind]
    stride = 1 + 2 * list(FAILURES).index(kind)

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    for at in range(1, 1000, stride):
        directory, scenario = restore(name)
        how: dict[str, Any] = {key: v for key, v in scenario.how.items() if key not in {"marked", "dtype"}}
        model = model_of(NEW, marked=scenario.marked, dtype=scenario.how.get("dtype", "float32"))
        steps = Steps(at, fail, only=("write", "fsync", "rename", "replace", "mkdir", "link", "exchange"))
        error = None
        with steps.counting():
            try:
                save_checkpoint(directory, model, **how)
            except CheckpointError as caught:
                error = str(caught)
        if steps.count < at:
            break
        found = generation_of(directory, marked=scenario.marked)
        assert found in {scenario.old, NEW}
        if error is None:
            assert found == NEW, "a failure after the checkpoint was durable is none"
        else:
            assert text in error
            assert "\n" not in error
        save(directory, LATER, **scenario.how)
        assert generation_of(directory, marked=scenario.marked) == LATER
        assert {path.name for path in directory.parent.iterdir()} == {"model"}
        assert not [n for n in tree(directory) if n.startswith(".")]
    assert at > 10


@pytest.mark.few(5)
@pytest.mark.parametrize("limit", [0, 100, 3_000, 20_000, 35_000])
@pytest.mark.parametrize("name", ["safetensors, other shards", "bin over transformers' single file"])
def test_a_limit_on_the_size_of_files(restore: Restore, saver: Server, name: str, limit: int) -> None:
    directory, scenario = restore(name)
    before = tree(directory)
    said = saver.save(directory, NEW, scenario.how | {"max_shard_size": 10**6}, fsize=limit)
    assert said.startswith(f"refused: {directory} cannot be written")
    assert "File too large" in said
    assert generation_of(directory) == OLD
    assert tree(directory) == before
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 200 kB."""
    place = tmp_path / "disk"
    with file_system(place, "200k"):
        yield place


def test_a_full_disk(small_disk: Path) -> None:
    directory = small_disk / "model"
    save(directory, OLD, safetensors=True)
    before = tree(directory)
    for how in ({"safetensors": True}, {"max_shard_size": 20_000}):
        (small_disk / "ballast").write_bytes(bytes(100_000))
        with pytest.raises(CheckpointError, match="No space left on device"):
            save(directory, NEW, **how)
        assert generation_of(directory) == OLD
        assert tree(directory) == before
        (small_disk / "ballast").unlink()
    save(directory, LATER, safetensors=True)
    assert generation_of(directory) == LATER


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Return a directory that other users can access."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    os.system(f"chmod -R u+w {place}")
    shutil.rmtree(place)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write")
@pytest.mark.parametrize("mode", ["directory", "parent"])
@pytest.mark.parametrize("how", [SHARDED, {"dtype": "bfloat16", **SHARDED}], ids=["in place", "exchanged"])
def test_unwritable_directory(open_place: Path, saver: Server, mode: str, how: dict[str, Any]) -> None:
    directory = open_place / "model"
    model_of(OLD).save_pretrained(directory)
    os.system(f"chown -R {UNPRIVILEGED} {open_place}")
    (directory if mode == "directory" else open_place).chmod(0o555)
    before = tree(open_place)
    said = saver.save(directory, NEW, how, uid=UNPRIVILEGED)
    if mode == "parent" and how is SHARDED:
        assert said == "ok", "in place nothing is needed of the parent"
        return
    assert said.startswith("refused: "), said
    assert "Permission denied" in said
    assert generation_of(directory) == OLD
    assert tree(open_place) == before
