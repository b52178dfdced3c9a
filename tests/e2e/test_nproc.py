"""`--nproc-per-node`: one report, one error, and no process that outlives the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PROGRAM = (sys.executable, "-m", "forgather", "-t", "llama/4M", "model", "--device", "cpu", "--num-hidden-layers", "1")


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def start(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*PROGRAM, "--output-dir", str(tmp_path / "model"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip


def started(process: subprocess.Popen[str], tmp_path: Path) -> list[int]:
    """Wait until the processes train, and return their ids."""
    for _ in range(600):
        time.sleep(0.1)
        ids = children(process.pid)
        if len(ids) == 2 and (tmp_path / "model" / "config.json").exists():
            time.sleep(3)
            return ids
    raise AssertionError(process.communicate())


def ended(run: subprocess.Popen[str], ids: list[int]) -> tuple[str, str]:
    """Return the output of a command that must end soon, and its processes with it."""
    began = time.monotonic()
    out, err = run.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert not any(Path(f"/proc/{one}").exists() for one in ids)
    return out, err


def test_the_first_process_reports(tmp_path: Path) -> None:
    run = start(tmp_path, "--parallel", "fsdp", "--nproc-per-node", "2", "construct", "--save-checkpoint", "--json")
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert json.loads(out)["saved"]["files"]
    assert err == ""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--parallel tp=3 --nproc-per-node 3 test", 2, "--parallel: tp=3 cannot split 4 heads: use tp=1, tp=2 or tp=4"),
        ("--parallel tp=2 --nproc-per-node 4 construct", 2, "--parallel: tp=2 requires 2 processes, got 4"),
        ("--nproc-per-node 2 --load-from-checkpoint missing construct", 2, "missing does not exist"),
        ("--nproc-per-node 2 test --steps 3 --lr 1e30", 1, "try a smaller --lr"),
        ("--parallel fsdp construct", 2, "--parallel requires several processes: add --nproc-per-node N"),
    ],
)
def test_an_error_is_reported_once(tmp_path: Path, words: str, code: int, message: str) -> None:
    run = start(tmp_path, *words.split())
    out, err = run.communicate(timeout=120)
    assert run.returncode == code, (out, err)
    errors = [line for line in err.splitlines() if "error" in line]
    assert len(errors) == 1, err
    assert message in errors[0]


def test_a_killed_process_ends_the_others(tmp_path: Path) -> None:
    run = start(tmp_path, "--parallel", "fsdp", "--nproc-per-node", "2", "test", "--steps", "100000")
    ids = started(run, tmp_path)
    os.kill(ids[1], signal.SIGKILL)
    _, err = ended(run, ids)
    assert run.returncode == 2
    assert "was killed by SIGKILL: if memory ran out, use more processes" in err
    assert err.count("forgather: error") == 1


def test_an_interruption_leaves_no_process(tmp_path: Path) -> None:
    run = start(tmp_path, "--parallel", "fsdp", "--nproc-per-node", "2", "test", "--steps", "100000")
    ids = started(run, tmp_path)
    run.send_signal(signal.SIGINT)
    out, err = ended(run, ids)
    assert run.returncode == 130
    assert "ended early" in out
    assert err.count("interrupted") == 1
