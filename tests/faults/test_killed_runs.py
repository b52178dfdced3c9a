"""A training run that is killed at any moment and resumed ends with the weights of one that was not."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from forgather_core.checkpoint.write.steps import step_checkpoints

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
