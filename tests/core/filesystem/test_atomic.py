"""Directories and files are created and replaced atomically."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from forgather_core.errors import DirectoryError
from forgather_core.filesystem import atomic as files


def fill(directory: Path, **texts: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / name).write_text(text)
    return directory


def content(directory: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in directory.iterdir() if p.is_file()}


def swap(target: Path, **texts: str) -> None:
    with files.staging_directory(target) as staging:
        fill(staging, **texts)
        files.replace_directory(staging, target)


@pytest.mark.parametrize("exchange", [True, False], ids=["renameat2", "two renames"])
def test_directory_replaces_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    target = tmp_path / "below" / "model"
    swap(target, a="1")
    swap(target, b="2")
    assert content(target) == {"b": "2"}
    assert [p.name for p in target.parent.iterdir()] == ["model"]


def test_failure_leaves_no_trace(tmp_path: Path) -> None:
    target = fill(tmp_path / "model", a="1")

    def fail() -> None:
        with files.staging_directory(target) as staging:
            fill(staging, b="2")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail()
    assert content(target) == {"a": "1"}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_link_to_the_directory_is_kept(tmp_path: Path) -> None:
    real = fill(tmp_path / "elsewhere" / "model", a="1")
    (tmp_path / "model").symlink_to(real)
    swap(tmp_path / "model", b="2")
    assert (tmp_path / "model").is_symlink()
    assert content(real) == {"b": "2"}


def test_interrupted_pair_of_renames_is_recovered(tmp_path: Path) -> None:
    """The state left by releases without marks: after the first rename and before the second."""
    fill(tmp_path / ".model.old", a="1")
    fill(tmp_path / ".model.tmp-1-00000000", a="2")
    files.sweep_stale(tmp_path / "model")
    assert content(tmp_path / "model") == {"a": "1"}


def test_a_failed_pair_of_renames_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    target = fill(tmp_path / "model", a="1")
    rename = Path.rename

    def fail(self: Path, place: Path) -> Path:
        if place == target and self.parent.name.startswith(".model.tmp-") and self.name == "model":
            raise OSError(5, "the disk is gone")
        return rename(self, place)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(DirectoryError, match="the disk is gone"):
        swap(target, b="2")
    assert content(target) == {"a": "1"}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.regression("H2")
@pytest.mark.parametrize("exists", [True, False], ids=["over a model", "new"])
@pytest.mark.parametrize("name", [".model.old", ".model.tmp-1-00000000", ".model.replaced"])
def test_user_directory_beside_the_target_is_kept(tmp_path: Path, name: str, exists: bool) -> None:
    if exists:
        fill(tmp_path / "model", a="1")
    fill(tmp_path / name, precious="1")
    with files.directory_lock(tmp_path / "model"):
        files.sweep_stale(tmp_path / "model")
        swap(tmp_path / "model", b="2")
    assert content(tmp_path / name) == {"precious": "1"}
    assert content(tmp_path / "model") == {"b": "2"}


@pytest.mark.regression("H12")
def test_a_lock_that_is_a_dangling_link_does_not_create_its_target(tmp_path: Path) -> None:
    (tmp_path / ".model.lock").symlink_to(tmp_path / "outside")
    with pytest.raises(DirectoryError, match="move or remove it"), files.directory_lock(tmp_path / "model"):
        pass
    assert not (tmp_path / "outside").exists()
    assert (tmp_path / ".model.lock").is_symlink()


def test_a_lock_that_is_not_waited_for_reports_its_holder(tmp_path: Path) -> None:
    with files.directory_lock(tmp_path / "model"):
        with (
            pytest.raises(DirectoryError, match=r"^it is in use: wait for it to end, or choose another directory"),
            files.directory_lock(tmp_path / "model", held="it is in use"),
        ):
            pass
        assert (tmp_path / ".model.lock").exists()  # still held
    with files.directory_lock(tmp_path / "model", held="it is in use"):
        pass


@pytest.mark.parametrize("kind", ["pipe", "directory", "link"])
def test_special_file_in_place_of_a_lock_is_named_and_kept(tmp_path: Path, kind: str) -> None:
    lock = tmp_path / ".model.lock"
    make = {"pipe": os.mkfifo, "directory": Path.mkdir, "link": lambda path: path.symlink_to(tmp_path)}
    make[kind](lock)  # type: ignore[operator]
    with pytest.raises(DirectoryError, match="must be a regular file"), files.directory_lock(tmp_path / "model"):
        pass
    assert os.path.lexists(lock)


@pytest.mark.regression("H2")
def test_user_file_with_the_name_of_the_lock_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".model.lock").write_text("mine")
    with files.directory_lock(tmp_path / "model"):
        pass
    assert (tmp_path / ".model.lock").read_text() == "mine"


@pytest.mark.regression("H8")
def test_pipes_and_sockets_are_carried_over_unopened(tmp_path: Path) -> None:
    target = fill(tmp_path / "model", a="1")
    (target / "runs").mkdir()
    for pipe in (target / "pipe", target / "runs" / "pipe"):
        os.mkfifo(pipe)
    with files.staging_directory(target) as staging:
        files.carry_over(target, staging, ["pipe", "runs"])
        files.replace_directory(staging, target, known={"a", "pipe", "runs"})
    assert (target / "pipe").is_fifo()
    assert (target / "runs" / "pipe").is_fifo()


def test_temporaries_of_dead_processes_are_swept(tmp_path: Path) -> None:
    target = tmp_path / "model"
    dead = tmp_path / ".model.tmp-1-00000000"
    dead.mkdir()
    fill(dead / "model", a="1")
    mark = dead / f".forgather-temporary-{dead.stat().st_ino}"
    mark.touch()
    other = fill(tmp_path / ".models.tmp-1-00000000", a="1")
    mine = fill(tmp_path / ".model.tmp-notes", a="1")
    with files.staging_directory(target) as living:
        files.sweep_stale(target)
        assert living.is_dir()
    assert not dead.exists()
    assert other.is_dir()
    assert mine.is_dir()


def test_foreign_files_are_carried_over_without_copying(tmp_path: Path) -> None:
    old = fill(tmp_path / "old", big="weights")
    fill(old / "runs" / "one", log="text")
    (old / "link").symlink_to("big")
    new = fill(tmp_path / "new")
    files.carry_over(old, new, ["big", "runs", "link"])
    assert (new / "big").samefile(old / "big")
    assert (new / "runs" / "one" / "log").read_text() == "text"
    assert (new / "link").readlink() == Path("big")


HOLD = """
import sys, time
from pathlib import Path
from forgather_core.filesystem.atomic import directory_lock
with directory_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(target: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_lock_is_waited_for_and_released_by_death(tmp_path: Path) -> None:
    target = tmp_path / "model"
    holder = hold(target, 60)
    waiting = threading.Event()
    threading.Timer(1.6, holder.kill).start()
    with files.directory_lock(target, on_wait=waiting.set):
        assert waiting.is_set()
        assert holder.wait() != 0
    assert list(tmp_path.iterdir()) == []


def test_only_one_holds_a_lock(tmp_path: Path) -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with files.directory_lock(tmp_path / "model"):
            with guard:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with guard:
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_path_is_reported_for_a_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DirectoryError, match="cannot be written"), files.directory_lock(tmp_path / "model"):
        pass


def test_unwritable_path_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "model"
    with pytest.raises(DirectoryError, match="cannot be written"), files.directory_lock(target):
        pass
    with pytest.raises(DirectoryError, match="cannot be written"), files.staging_directory(target):
        pass


def test_errors_have_the_path_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DirectoryError) as caught, files.new_directory(tmp_path, lambda: None):
        pass
    assert caught.value.file == str(tmp_path)
    assert caught.value.problem == "is the working directory, which cannot be replaced"
    assert caught.value.hint == "change to another directory, or choose another path"
    lock = tmp_path / ".model.lock"
    lock.mkdir()
    with pytest.raises(DirectoryError) as caught, files.directory_lock(tmp_path / "model"):
        pass
    assert (caught.value.file, caught.value.hint) == (str(lock), "move or remove it")
    assert str(caught.value).startswith(f"{lock} must be a regular file")


def test_permissions_of_the_directory_are_kept(tmp_path: Path) -> None:
    target = fill(tmp_path / "model", a="1")
    target.chmod(0o750)
    swap(target, a="2")
    assert oct(target.stat().st_mode & 0o7777) == "0o750"


def test_files_written_during_a_replacement_are_moved_over(tmp_path: Path) -> None:
    target = fill(tmp_path / "model", a="1", dropped="1")
    fill(target / "runs", first="1")
    with files.staging_directory(target) as staging:
        known = {entry.name for entry in target.iterdir()}
        fill(staging, a="2")
        files.carry_over(target, staging, ["runs"])
        fill(target, late="2", a="1")
        fill(target / "runs", late="2")
        fill(target / "others", late="2")
        files.replace_directory(staging, target, known=known)
    assert content(target) == {"a": "2", "late": "2"}
    assert content(target / "runs") == {"first": "1", "late": "2"}
    assert content(target / "others") == {"late": "2"}


def test_staging_directory_is_recovered_before_removal(tmp_path: Path) -> None:
    target, seen = tmp_path / "model", []
    with files.staging_directory(target, recover=lambda place: seen.append(place.name)) as staging:
        pass
    assert seen == [staging.name]
    left = tmp_path / f".model.tmp-{os.getpid()}-00000000"
    (left / "model").mkdir(parents=True)
    (left / f".forgather-temporary-{left.stat().st_ino}").touch()
    assert files.is_touched(target)

    def fail(_: Path) -> None:
        raise OSError("the disk is gone")

    files.sweep_stale(target, recover=fail)
    assert left.is_dir()
    files.sweep_stale(target, recover=lambda place: seen.append(place.name))
    assert not left.exists()
    assert seen == [staging.name, "model"]
    assert not files.is_touched(target)
