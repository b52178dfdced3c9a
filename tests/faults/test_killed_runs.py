"""Training runs that are killed at any moment, or whose disk is full, continue from a complete checkpoint."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from forgather_core.checkpoint.write.steps import step_checkpoints
from tests.support.fork_server import ForkServer

from .conftest import file_system

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("FORGATHER_KILLS", "4"))
SCRIPT = "import sys; sys.argv[0] = 'forgather'; from forgather_cli.main import main; main()"
MODEL = (
    *("-t", "llama/4M", "model", "--device", "cpu", "--tokenizer", "bytes", "--attention-dropout", "0.1"),
    *("--num-hidden-layers", "1", "--hidden-size", "32", "--intermediate-size", "32", "--num-attention-heads", "4"),
)
TOKENS = str(960 * KILLS)  # 15 steps for each kill
RUN = (
    *("train", "--dataset-project", "texts", "--tokens", TOKENS, "--sequence-length", "16", "--batch-size", "4"),
    *("--save-every", "3", "--eval-every", "7", "--resume"),
)


def start(fork_server: ForkServer, place: Path, name: str) -> int:
    return fork_server.start(["-c", SCRIPT, *MODEL, "--output-dir", name, *RUN], cwd=place)


def finish(fork_server: ForkServer, place: Path, name: str) -> None:
    start(fork_server, place, name)
    ended = fork_server.wait()
    assert ended.code == 0, ended.stderr.decode()


def kill_between(fork_server: ForkServer, place: Path, moment: random.Random) -> None:
    """Kill a run a moment after its next checkpoint begins, so that saves are hit as often as steps."""
    checkpoints = place / "killed" / "checkpoints"
    before = {path.name for path in checkpoints.glob("*")}
    process = start(fork_server, place, "killed")
    while fork_server.running():
        if {path.name for path in checkpoints.glob("*")} - before:
            time.sleep(moment.uniform(0, 0.15))
            break
        time.sleep(0.002)
    with suppress(ProcessLookupError):  # it has ended already
        os.kill(process, signal.SIGKILL)
    ended = fork_server.wait()
    assert ended.code in {0, -signal.SIGKILL}, ended.stderr.decode()
    assert ended.exceeded is None


def test_a_killed_run_ends_with_equal_weights(fork_server: ForkServer, memory_path: Path) -> None:
    (memory_path / "texts").mkdir()
    for number in range(30):
        (memory_path / "texts" / f"{number}.txt").write_text(f"text {number} " * (number % 7 + 3))
    finish(fork_server, memory_path, "whole")
    moment = random.Random(0)
    for _ in range(KILLS):
        kill_between(fork_server, memory_path, moment)
        found = step_checkpoints(memory_path / "killed")
        assert all(one.problem is None for one in found)  # no part of a checkpoint has its name
        if (memory_path / "killed" / "model.safetensors").exists():
            break
    else:
        finish(fork_server, memory_path, "killed")
    whole, killed = (load_file(memory_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    left = [path.name for path in (memory_path / "killed" / "checkpoints").iterdir()]
    assert all(name.startswith("checkpoint-") for name in left), left


@pytest.mark.parametrize("size", ["18m", "26m"])  # full while the weights of the second checkpoint are saved; the state
def test_a_full_disk_leaves_a_checkpoint_that_continues(fork_server: ForkServer, size: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with file_system(disk, size):
        (tmp_path / "texts").mkdir()
        for number in range(30):
            (tmp_path / "texts" / f"{number}.txt").write_text(f"text {number} " * 9)
        sizes = ("--num-hidden-layers", "1", "--hidden-size", "320", "--intermediate-size", "640")
        # Without --force it is refused before the first step. Checkpoints of 14 MB, of which the weights are a third.
        options = ("--dataset-project", "texts", "--tokens", "640", "--sequence-length", "16", "--batch-size", "4")
        model = (*MODEL[: MODEL.index("--num-hidden-layers")], *sizes, "--output-dir", "disk/model")
        command = ["-c", SCRIPT, *model, "train", *options, "--save-every", "3", "--force"]
        run = fork_server.run(command, cwd=tmp_path)
        assert run.returncode == 2, run.stderr
        found = step_checkpoints(disk / "model")
        assert [(one.path.name, one.problem) for one in found] == [("checkpoint-3", None)]
        assert run.stderr.splitlines()[-1].endswith(
            f"checkpoint-6 cannot be written: No space left on device; the last checkpoint is {found[0].path}"
            ": free disk space, then add --resume"
        )
        assert [path.name for path in (disk / "model" / "checkpoints").iterdir()] == ["checkpoint-3"]
        os.system(f"mount -o remount,size=100m {disk}")
        again = fork_server.run([*command, "--resume"], cwd=tmp_path)
        assert again.returncode == 0, again.stderr
