"""Files as the system has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forgather_core.filesystem import disk


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(OSError, match="no regular file"):
            disk.open_regular(tmp_path / name)
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    descriptor = disk.open_regular(tmp_path / "link")
    assert disk.read_bytes(descriptor, 3, 1) == b"234"
    with pytest.raises(OSError, match="truncated"):
        disk.read_bytes(descriptor, 3, 3)
    os.close(descriptor)


def test_names_are_gone_when_files_are_removed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("1")
    (tmp_path / "link").symlink_to("nowhere")
    disk.remove_files([tmp_path / "a", tmp_path / "link", tmp_path / "absent"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_a_directory_is_made_with_those_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(disk, "sync_directory", lambda place: synced.append(place.name))
    disk.make_directory(tmp_path / "a" / "b" / "c")
    disk.make_directory(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert synced == [tmp_path.name, "a", "b"]
