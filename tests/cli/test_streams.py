"""Closed and full streams, unwritable paths, and names that are not UTF-8 give one line and exit code 2."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import LLAMA, SCRIPT, Cli, nothing_on_disk

SHELL = shutil.which("sh")
BAD = os.fsdecode(b"bad\xff")
COMMANDS = ["--version", "ls", "plugins", f"{' '.join(LLAMA)} show", f"{' '.join(LLAMA)} show --json", "model --help"]


def redirected(words: str, redirection: str) -> subprocess.CompletedProcess[str]:
    """Run a command from a shell that closes or redirects streams."""
    line = f'"{sys.executable}" -c "{SCRIPT}" {words} {redirection}'
    return subprocess.run([SHELL or "sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.regression("P8")
@pytest.mark.skipif(SHELL is None, reason="needs a shell")
@pytest.mark.few(3)
@pytest.mark.parametrize("words", COMMANDS)
def test_standard_output_that_is_closed(words: str) -> None:
    done = redirected(words, ">&-")
    hint = "redirect it to a file or a terminal"
    assert (done.returncode, done.stderr) == (2, f"forgather: error: standard output is closed: {hint}\n")


@pytest.mark.regression("P8")
@pytest.mark.skipif(SHELL is None or not Path("/dev/full").exists(), reason="needs a shell and /dev/full")
@pytest.mark.few(2)
@pytest.mark.parametrize("words", ["ls", "no-such-command", "model"])
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&- <&-"])
def test_standard_error_that_is_closed_or_full(words: str, redirection: str) -> None:
    expected = redirected(words, "")
    done = redirected(words, redirection)
    assert (done.returncode, done.stdout, done.stderr) == (expected.returncode, expected.stdout, "")


@pytest.mark.skipif(SHELL is None, reason="needs a shell")
def test_a_report_in_a_file_needs_no_stream() -> None:
    done = redirected(f"{' '.join(LLAMA)} show -o r.txt", ">&- 2>&- <&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Path("r.txt").read_text().startswith("llama_4m\n")


@pytest.mark.regression("P8")
@pytest.mark.parametrize("suffix", ["html", "txt", "json", "svg"])
def test_a_full_disk_leaves_the_old_report_or_none(cli: Cli, suffix: str) -> None:
    resource_limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old, new = Path(f"old.{suffix}"), Path(f"new.{suffix}")
    old.write_text("as it was")
    old.chmod(0o600)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource_limits[1]))
    try:
        errors = [cli(*LLAMA, "show", "-o", str(path)).error for path in (old, new)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, resource_limits)
    assert all("--output-file" in error and "cannot be written" in error for error in errors)
    assert [path.name for path in Path().iterdir()] == [old.name]
    assert (old.read_text(), old.stat().st_mode & 0o777) == ("as it was", 0o600)


def test_a_report_replaces_the_target_of_a_link(cli: Cli) -> None:
    Path("real.txt").write_text("old")
    Path("link.txt").symlink_to("real.txt")
    assert cli(*LLAMA, "show", "-o", "link.txt").code == 0
    assert Path("link.txt").is_symlink()
    assert Path("real.txt").read_text().startswith("llama_4m\n")


@pytest.mark.few(2)
@pytest.mark.regression("P8")
@pytest.mark.parametrize("words", ["model construct", "model --device cpu test", "verify"])
@pytest.mark.parametrize("home", ["/proc/nowhere", "file"])
def test_a_code_cache_that_cannot_be_written(cli: Cli, monkeypatch: pytest.MonkeyPatch, words: str, home: str) -> None:
    from transformers import dynamic_module_utils

    Path("file").touch()
    if words == "verify":
        cli(*LLAMA, "construct")
    monkeypatch.setattr(sys, "path", list(sys.path))
    cache = str(Path(home).absolute() / "modules")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", cache)
    where = ("output_models/llama_4m", "--quick") if words == "verify" else ()
    error = cli(*(("-t", "llama/4M") if words != "verify" else ()), *words.split(), *where).error
    assert error.startswith(cache)
    assert "set HF_HOME to a writable directory" in error
    assert not Path("output_models/llama_4m").exists() or words == "verify"


@pytest.mark.regression("P8")
@pytest.mark.parametrize("content", [b"root:x:0:0:root\n", "täxt\n".encode(), b"\x7fELF\x02", b"\x80\x02", b"(lp0\n."])
def test_a_file_that_is_no_checkpoint(cli: Cli, content: bytes) -> None:
    Path("file").write_bytes(content * 30)
    error = cli("checkpoint", "inspect", "file").error
    assert error.startswith("file is not a torch weight file, or is damaged: it")
    assert not {"index", "range", "stack"} & set(error.split())


@pytest.mark.regression("P8")
def test_a_model_directory_whose_path_is_not_utf_8(cli: Cli) -> None:
    os.mkdir(BAD)  # noqa: PTH102
    for words in (
        (*LLAMA, "--output-dir", f"{BAD}/m", "construct"),
        ("tokenizer", "train", "--dataset-project", "stdlib", "--vocab-size", "300", "-o", f"{BAD}/t"),
    ):
        assert "bad\\udcff" in (error := cli(*words).error)
        assert "must have a UTF-8 path" in error
    assert not os.listdir(BAD)  # noqa: PTH208


@pytest.mark.regression("P8")
@pytest.mark.parametrize("format", ["bin", "safetensors"])
def test_a_tensor_whose_name_is_not_utf_8(cli: Cli, format: str) -> None:
    header = json.dumps({"a\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    Path("m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert "a\\ud800" in cli("checkpoint", "inspect", "m.safetensors").out
    error = cli("checkpoint", "convert", "m.safetensors", "new", "--format", format).error
    assert error == "the name of the tensor 'a\\ud800' is not UTF-8: rename the tensor"
    assert not Path("new").exists()


@pytest.mark.regression("P8")
def test_half_a_surrogate_pair_in_a_configuration(cli: Cli) -> None:
    Path("exp.yaml").write_text('extends: llama/4M\noutput_dir: "\\ud800"\n')
    error = cli("-t", "exp", "model", "construct").error
    assert error == "exp.yaml:2:13: an unpaired surrogate is not valid in file names or text: remove it"


PLACES = [".", "./", "..", "../", "link", "link/", "../here", "nothing/.."]


@pytest.mark.regression("P10")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("words", ["model construct", "tokenizer", "convert", "plugin"])
def test_the_working_directory_is_never_replaced(cli: Cli, tmp_path: Path, words: str, place: str) -> None:
    Path("link").symlink_to(".")
    inside = Path.cwd() / "empty"
    inside.mkdir()
    os.chdir(inside)
    place = place.replace("here", "empty").replace("link", "../link/empty")
    before = os.stat(".").st_ino  # noqa: PTH116
    source = tmp_path / "m.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    source.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    error = cli(
        *{
            "model construct": (*LLAMA, "--output-dir", place, "construct"),
            "tokenizer": ("tokenizer", "train", "--dataset-project", "stdlib", "--vocab-size", "300", "-o", place),
            "convert": ("checkpoint", "convert", str(source), place),
            "plugin": ("plugin", "new", "my_model", "-o", place),
        }[words]
    ).error
    assert "working directory" in error or "exists" in error or "is there already" in error
    assert os.stat("../empty").st_ino == os.stat(".").st_ino == before  # noqa: PTH116
    assert nothing_on_disk()


@pytest.mark.slow
@pytest.mark.regression("P10")
def test_a_model_directory_is_not_replaced_from_within(cli: Cli) -> None:
    assert cli(*LLAMA, "--output-dir", "m", "construct").code == 0
    os.chdir("m")
    assert cli(*LLAMA, "--output-dir", ".", "construct").code == 0  # no directory is replaced
    files = sorted(os.listdir())  # noqa: PTH208
    for place in (".", "../m/", str(Path.cwd())):
        error = cli(*LLAMA, "--hidden-size", "128", "--output-dir", place, "-r", "construct").error
        assert "is the working directory, which cannot be replaced" in error
    assert sorted(os.listdir()) == files  # noqa: PTH208
    assert Path("../m").samefile(".")


def test_a_removed_working_directory(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f'cd "{gone}"; rmdir "{gone}"; "{sys.executable}" -c "{SCRIPT}" -t llama/4M model construct'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "forgather: error: the working directory has been removed: change to another directory"
    )
