"""Model directories are created, reused, rebuilt or refused, and no user file is lost."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from forgather_core.errors import DirectoryError, ExportError
from forgather_core.export import directory as module
from forgather_core.export.directory import ModelDirectory, prepare_directory
from forgather_core.model.manifest import MANIFEST
from tests.support.settings import Resolve

JSON = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
WRITTEN = JSON | {"LICENSE", "README.md", MANIFEST, "configuration_llama.py", "modeling_llama.py", "attention.py"}
Make = Callable[..., ModelDirectory]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "small"


@pytest.fixture
def make(small: Resolve, target: Path) -> Make:
    def run(*, refresh: bool = False, keep: bool = False, **flags: object) -> ModelDirectory:
        return prepare_directory(small(**flags), target, refresh=refresh, keep=keep)

    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_creates_then_reuses(make: Make, target: Path) -> None:
    assert make().state == "created"
    assert names(target) >= WRITTEN
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    assert make().state == "reused"
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    assert names(target.parent) == {"small"}


def test_two_builds_are_equal_to_the_byte(make: Make, small: Resolve, target: Path, tmp_path: Path) -> None:
    make()
    prepare_directory(small(), tmp_path / "again")
    assert names(target) == names(tmp_path / "again")
    for path in target.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"hidden_size": 64}, r"head_dim \(was 8, now 16\), hidden_size \(was 32, now 64\)"),
        ({"tokenizer": "bpe-2k"}, "tokenizer"),
        ({"chat_template": "chatml"}, "chat_template"),
        ({"model_name": "other"}, "model_name"),
        ({"sliding_window": 16}, r"sliding_window \(was None, now 16\)"),
    ],
)
def test_names_changed_options(make: Make, flags: dict[str, object], message: str) -> None:
    make()
    with pytest.raises(DirectoryError, match=message):
        make(**flags)
    assert make(keep=True, **flags).state == "kept"
    assert make(refresh=True, **flags).state == "rebuilt"
    assert make(**flags).state == "reused"


def test_build_options_are_no_difference(make: Make) -> None:
    make()
    assert make(device="cpu", seed=3, dtype="bfloat16").state == "reused"


def test_names_an_edited_file_and_keeps_it(make: Make, target: Path) -> None:
    make()
    original = (target / "norms.py").read_bytes()
    (target / "norms.py").write_bytes(original + b"# mine\n")
    (target / "blocks.py").unlink()
    with pytest.raises(DirectoryError, match=r"edited since it was built: norms\.py; missing .*: blocks\.py"):
        make()
    found = make(refresh=True)
    assert (target / "norms.py").read_bytes() == original
    assert (target / "norms.py.edited").read_bytes() == original + b"# mine\n"
    assert any("norms.py.edited" in note for note in found.notes)
    (target / "norms.py").write_bytes(b"# edited twice\n")
    make(refresh=True)
    assert (target / "norms.py.edited").read_bytes() == original + b"# mine\n"
    assert (target / "norms.py.edited1").read_bytes() == b"# edited twice\n"


def test_names_changed_sources(make: Make, target: Path) -> None:
    make()
    manifest = json.loads((target / MANIFEST).read_text())
    old = b"# an older release\n"
    (target / "rope.py").write_bytes(old)
    manifest["files"]["rope.py"] = {"sha256": hashlib.sha256(old).hexdigest()}
    manifest["files"]["rope.py"] |= {"origin": "forgather_core.parts.rope", "meaning": None}
    (target / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DirectoryError, match=r"built from other sources: rope\.py"):
        make()


def test_a_rebuild_keeps_every_user_file(make: Make, target: Path) -> None:
    make()
    (target / "notes.txt").write_text("mine")
    (target / "runs" / "one").mkdir(parents=True)
    (target / "runs" / "one" / "log").write_text("log")
    (target / "best").symlink_to("runs/one")
    (target / "model.safetensors").write_bytes(b"weights")
    inode = (target / "model.safetensors").stat().st_ino
    found = make(refresh=True, hidden_size=64)
    assert (target / "notes.txt").read_text() == "mine"
    assert (target / "runs" / "one" / "log").read_text() == "log"
    assert (target / "best").readlink() == Path("runs/one")
    assert (target / "model.safetensors").stat().st_ino == inode  # not copied
    assert any("before this rebuild: model.safetensors" in note for note in found.notes)
    assert json.loads((target / "config.json").read_text())["hidden_size"] == 64


def test_a_rebuild_renames_a_user_file_with_a_required_name(make: Make, target: Path) -> None:
    make()
    (target / "chat_template.jinja").write_text("mine")
    found = make(refresh=True, chat_template="chatml")
    assert (target / "chat_template.jinja.edited").read_text() == "mine"
    assert any("chat_template.jinja.edited" in note for note in found.notes)


def test_refuses_a_directory_without_manifest(make: Make, target: Path) -> None:
    target.mkdir(parents=True)
    assert make().state == "created"  # an empty directory is used
    (target / MANIFEST).unlink()
    for refresh in (False, True):
        with pytest.raises(DirectoryError, match="not a model directory of Forgather"):
            make(refresh=refresh)


def test_refuses_files_and_broken_links(make: Make, target: Path) -> None:
    target.parent.mkdir()
    target.write_text("a file")
    with pytest.raises(DirectoryError, match="not a directory"):
        make()
    target.unlink()
    target.symlink_to("nowhere")
    with pytest.raises(DirectoryError, match="broken symbolic link"):
        make()


@pytest.mark.few(2)
@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}', '{"format": 1}'])
def test_names_an_unreadable_manifest(make: Make, target: Path, text: str) -> None:
    make()
    (target / MANIFEST).write_text(text)
    with pytest.raises(DirectoryError, match=MANIFEST):
        make()


def test_files_rewritten_by_transformers_are_not_edits(make: Make, target: Path) -> None:
    make()
    config = AutoConfig.from_pretrained(target, trust_remote_code=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(target)
    GenerationConfig.from_pretrained(target).save_pretrained(target)
    assert make().state == "reused"
    content = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(content | {"rms_norm_eps": 0.5}))
    with pytest.raises(DirectoryError, match=r"edited since it was built: config\.json"):
        make()


@pytest.mark.parametrize("before", ["nothing", "an old directory"])
def test_a_failure_changes_nothing(make: Make, target: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    if before != "nothing":
        make()
    old = {path.name: path.read_bytes() for path in target.iterdir()} if target.exists() else {}

    def fail(*_: object, **__: object) -> None:
        raise ExportError("midway")

    monkeypatch.setattr(module, "replace_directory", fail)
    with pytest.raises(ExportError, match="midway"):
        make(refresh=before != "nothing", hidden_size=64)
    assert ({path.name: path.read_bytes() for path in target.iterdir()} if target.exists() else {}) == old
    assert names(target.parent) == ({"small"} if old else set())


PROCESSES = """
import os, sys
from pathlib import Path
from forgather_core.definitions.registry import Registry
from forgather_core.export.directory import prepare_directory
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
settings = resolve(find_configuration("llama/4M", Registry(), Path()), {"tokenizer": "bytes"})
begin, end = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.close(end)
        os.read(begin, 1)  # until all processes exist
        print(prepare_directory(settings, Path(sys.argv[1]), refresh="-r" in sys.argv).state, flush=True)
        os._exit(0)
os.close(begin), os.close(end)
sys.exit(any([os.wait()[1] for _ in range(3)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["-r"]], ids=["construct", "rebuild"])
def test_concurrent_processes_all_succeed(target: Path, more: list[str]) -> None:
    command = [sys.executable, "-c", PROCESSES, str(target), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    states = sorted(done.stdout.split())
    assert states == ["created", *(["rebuilt"] if more else ["reused"]) * 2]
    assert names(target.parent) == {"small"}
    AutoConfig.from_pretrained(target, trust_remote_code=True)
