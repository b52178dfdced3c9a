"""Hostile content of a directory before a save: planted journals, pipes, devices, directories with our names."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from forgather_core.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.faults

STAGING = ".checkpoint.tmp-1-0123abcd"
INDEX = "model.safetensors.index.json"
MEMORY = 2**30  # bytes of address space that reading a journal may add

SAVE = """
import resource, sys, torch
from torch import nn
from forgather_core.checkpoint import save_checkpoint
from forgather_core.errors import ForgatherError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), -1))
torch.set_num_threads(1)
try:
    save_checkpoint(sys.argv[1], nn.Linear(4, 4), safetensors=True, max_shard_size=1)
except ForgatherError as error:
    sys.exit(f"refused: {error}")
"""


def save(directory: Path, value: float = 1.0) -> None:
    model = nn.Linear(4, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    save_checkpoint(directory, model, safetensors=True, max_shard_size=1)


def loads(directory: Path) -> float:
    model = nn.Linear(4, 4)
    load_checkpoint(directory, model, strict=True)
    return float(model.bias.detach()[0])


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def identity(file: Path) -> list[int]:
    found = file.lstat()
    return [found.st_ino, found.st_mtime_ns, found.st_size]


def plant(directory: Path, content: Any) -> Path:
    """Plant a journal in the staging directory of a dead process."""
    (directory / STAGING).mkdir()
    journal = directory / STAGING / "journal.json"
    journal.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return journal


NAMES: dict[str, Callable[[Path], str]] = {
    "a relative path": lambda file: f"../{file.name}",
    "an absolute path": str,
    "a path through a link": lambda file: f"out/{file.name}",
    "a user's file": lambda file: "notes.txt",
    "the configuration": lambda file: "config.json",
    "weights of another program": lambda file: "model.safetensors",
    "the staging directory": lambda file: f"{STAGING}/../notes.txt",
    "a zero byte": lambda file: "notes.txt\0",
}


@pytest.mark.regression("H1")
@pytest.mark.parametrize("key", ["index", "new", "old", "old of what loads", "new that is loaded"])
@pytest.mark.parametrize("name", NAMES)
def test_planted_journal_deletes_nothing(tmp_path: Path, name: str, key: str) -> None:
    directory, outside = tmp_path / "m", tmp_path / "known.py"
    directory.mkdir()
    outside.write_text("known")
    save(directory)
    for own in ("notes.txt", "config.json"):
        (directory / own).write_text("{}")
    (directory / "out").symlink_to(tmp_path)
    wanted = NAMES[name](outside)
    place = directory / wanted if "\0" not in wanted else directory / "notes.txt"
    known = identity(place) if place.exists() else [1, 2, 3]
    index, new, old = INDEX, {}, {}
    sha = digest(directory / INDEX)
    if key == "index":
        index, sha = wanted, digest(place) if place.is_file() else "0" * 64
    elif key in ("old", "old of what loads"):
        old = {wanted: known}
        shard = "model-00001-of-00002.safetensors"
        new = {shard: identity(directory / shard)} if key == "old of what loads" else {}
    else:
        new = {wanted: known}
        sha = sha if key == "new that is loaded" else "0" * 64
    plant(directory, {"index": index, "digest": sha, "new": new, "old": old})
    before = {path: path.read_bytes() for path in (outside, directory / "notes.txt", directory / "config.json")}
    save_checkpoint(directory, nn.Linear(4, 4), safetensors=True)
    assert {path: path.read_bytes() for path in before if path.exists()} == before
    assert (directory / "out").is_symlink()


def test_journal_of_an_earlier_release_is_followed(tmp_path: Path) -> None:
    """It is in an unmarked directory: new shards that no index names are removed, and so is the directory."""
    save(tmp_path, 1.0)
    stray, weights = tmp_path / "model-2-00001-of-00001.safetensors", tmp_path / "model-00001-of-00002.safetensors"
    stray.write_bytes(weights.read_bytes())
    known = {"new": {stray.name: identity(stray)}, "old": {weights.name: identity(weights)}}
    plant(tmp_path, {"index": INDEX, "digest": "0" * 64, **known})
    save(tmp_path, 2.0)
    assert loads(tmp_path) == 2.0
    assert not (tmp_path / STAGING).exists()
    assert not weights.exists() or not stray.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


JOURNALS: dict[str, Callable[[Path], object]] = {
    "a list": lambda path: path.write_text("[]"),
    "an empty object": lambda path: path.write_text("{}"),
    "a number": lambda path: path.write_text("7"),
    "deep nesting": lambda path: path.write_text("[" * 200_000),
    "deep objects": lambda path: path.write_text('{"a":' * 200_000),
    "not UTF-8": lambda path: path.write_bytes(b'{"index": "\xff"}}'),
    "a name twice": lambda path: path.write_text('{"index": "a", "index": "b"}'),
    "NaN": lambda path: path.write_text('{"index": NaN}'),
    "a long number": lambda path: path.write_text('{"index": ' + "9" * 10_000 + "}"),
    "wrong types": lambda path: path.write_text('{"index": [], "digest": {}, "new": 1, "old": null}'),
    "wrong identities": lambda path: path.write_text(
        json.dumps(
            {"index": INDEX, "digest": "0" * 64, "new": {"model-00001-of-00002.safetensors": [1, "2"]}, "old": {}}
        )
    ),
    "control characters": lambda path: path.write_text('{"\\u001b[2J": 1, "\\u001b[2J": 2}'),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a looping link": lambda path: path.symlink_to(path),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a directory": Path.mkdir,
    "4 GB": lambda path: (path.touch(), os.truncate(path, 4 * 2**30)),
    "nothing": lambda path: path.touch(),
}


@pytest.mark.regression("H7")
@pytest.mark.parametrize("kind", JOURNALS)
def test_odd_journal_is_reported_in_one_line_and_blocks_no_save(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    save(tmp_path, 1.0)
    (tmp_path / STAGING).mkdir()
    JOURNALS[kind](tmp_path / STAGING / "journal.json")
    # Reading a pipe would block: in another process, that is a failure with a timeout.
    if kind in ("a pipe", "a device", "4 GB"):
        done = in_process(tmp_path)
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        assert not any("Traceback" in line for line in lines)
    else:
        save(tmp_path, 2.0)
        lines = [record.getMessage() for record in caplog.records]
        assert loads(tmp_path) == 2.0
    assert len(lines) <= 2
    assert all(line.isprintable() for line in lines)
    save(tmp_path, 3.0)
    assert loads(tmp_path) == 3.0
    assert os.path.lexists(tmp_path / STAGING / "journal.json"), "what is not recognized stays"


def in_process(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SAVE, str(directory), str(MEMORY)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=env, check=False)


def _socket(path: Path) -> None:
    held, before = socket.socket(socket.AF_UNIX), Path.cwd()
    os.chdir(path.parent)  # the length of the address is limited
    try:
        held.bind(path.name)
    finally:
        os.chdir(before)
        held.close()


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a directory": lambda path: (path.mkdir(), (path / "mine").write_text("mine")),
}


@pytest.mark.regression("H8")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin", INDEX])
@pytest.mark.parametrize("kind", SPECIAL)
def test_save_refuses_special_files_and_keeps_them(tmp_path: Path, kind: str, name: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from forgather_core.errors import CheckpointError

    from .models import SIZES

    directory = tmp_path / "m"
    directory.mkdir()
    SPECIAL[kind](directory / name)
    before = identity(directory / name)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(10)  # reading the pipe would block forever
    try:
        save_checkpoint(directory, LlamaForCausalLM(LlamaConfig(**SIZES)), safetensors=True)
    except CheckpointError as error:
        refused = "is not a regular file" in str(error) and "\n" not in str(error)
    except KeyboardInterrupt:
        refused = False
    else:
        refused = False
    finally:
        signal.alarm(0)
    assert refused
    assert identity(directory / name) == before
