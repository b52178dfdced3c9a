"""Training runs that are killed at any moment, or whose disk is full, continue from a complete checkpoint."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forgather_core.checkpoint.write.steps import step_checkpoints

from .conftest import file_system

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("FORGATHER_KILLS", "5"))
SCRIPT = "import sys; sys.argv[0] = 'forgather'; from forgather_cli.main import main; main()"
MODEL = (
    *("-t", "llama/4M", "model", "--device", "cpu", "--tokenizer", "bytes", "--attention-dropout", "0.1"),
    *("--num-hidden-layers", "1", "--hidden-size", "32", "--intermediate-size", "32", "--num-attention-heads", "4"),
)
RUN = (
    *("train", "--dataset-project", "texts", "--tokens", "6400", "--sequence-length", "16", "--batch-size", "4"),
    *("--save-every", "3", "--eval-every", "7", "--resume"),
)


def start(place: Path, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, *MODEL, "--output-dir", name, *RUN]
    environment = os.environ | {"HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(place: Path, name: str) -> None:
    process = start(place, name)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def kill_between(process: subprocess.Popen[bytes], checkpoints: Path, moment: random.Random) -> None:
    """Kill a run a moment after its next checkpoint begins, so that saves are hit as often as steps."""
    before = {path.name for path in checkpoints.glob("*")}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if {path.name for path in checkpoints.glob("*")} - before:
            time.sleep(moment.uniform(0, 0.15))
            break
        time.sleep(0.002)
    process.kill()
    process.communicate()


def test_a_killed_run_ends_with_equal_weights(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(30):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"text {number} " * (number % 7 + 3))
    finish(tmp_path, "whole")
    moment = random.Random(0)
    for _ in range(KILLS):
        kill_between(start(tmp_path, "killed"), tmp_path / "killed" / "checkpoints", moment)
        found = step_checkpoints(tmp_path / "killed")
        assert all(one.problem is None for one in found)  # no part of a checkpoint has its name
        if (tmp_path / "killed" / "model.safetensors").exists():
            break
    else:
        finish(tmp_path, "killed")
    whole, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    left = [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()]
    assert all(name.startswith("checkpoint-") for name in left), left


@pytest.mark.parametrize("size", ["18m", "26m"])  # full while the weights of the second checkpoint are saved; the state
def test_a_full_disk_leaves_a_checkpoint_that_continues(size: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with file_system(disk, size):
        (tmp_path / "texts").mkdir()
        for number in range(30):
            (tmp_path / "texts" / f"{number}.txt").write_text(f"text {number} " * 9)
        sizes = ("--num-hidden-layers", "1", "--hidden-size", "320", "--intermediate-size", "640")
        # Without --force it is refused before the first step. Checkpoints of 14 MB, of which the weights are a third.
        options = ("--dataset-project", "texts", "--tokens", "640", "--sequence-length", "16", "--batch-size", "4")
        model = (*MODEL[: MODEL.index("--num-hidden-layers")], *sizes, "--output-dir", "disk/model")
        command = [sys.executable, "-c", SCRIPT, *model, "train", *options, "--save-every", "3", "--force"]
        environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
        how: dict[str, Any] = {
            "cwd": tmp_path, "env": environment, "capture_output": True, "text": True
        }  # fmt: skip
        run = subprocess.run(command, check=False, **how)
        assert run.returncode == 2, run.stderr
        found = step_checkpoints(disk / "model")
        assert [(one.path.name, one.problem) for one in found] == [("checkpoint-3", None)]
        assert run.stderr.splitlines()[-1].endswith(
            f"checkpoint-6 cannot be written: No space left on device; the last checkpoint is {found[0].path}"
            ": free disk space, then add --resume"
        )
        assert [path.name for path in (disk / "model" / "checkpoints").iterdir()] == ["checkpoint-3"]
        os.system(f"mount -o remount,size=100m {disk}")
        again = subprocess.run([*command, "--resume"], check=False, **how)
        assert again.returncode == 0, again.stderr
