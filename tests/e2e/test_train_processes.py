"""`accelerate launch` with two processes trains as one process does with the same rows per step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.fork_server import ForkServer
from tests.support.processes import free_port

from .conftest import run_in
from .test_train_mesh import compare

pytestmark = pytest.mark.slow

MODEL = (
    *("-t", "llama/4M", "model", "--device", "cpu", "--tokenizer", "bytes"),
    *("--num-hidden-layers", "1", "--hidden-size", "32", "--intermediate-size", "32", "--num-attention-heads", "4"),
)
RUN = ("train", "--dataset-project", "texts", "--tokens", "4k", "--sequence-length", "32", "--lr", "1e-2")


def run(
    place: Path, launcher: tuple[str, ...], name: str, *options: str, server: ForkServer | None = None
) -> dict[str, Any]:
    """Train with a launcher, in a fork of a server or in a new process, and return the report."""
    command = ["-m", *launcher, *MODEL, "--output-dir", name, *RUN, *options]
    done = run_in(place, server, OMP_NUM_THREADS="1")(*command)
    # Only one process reports.
    assert done.stdout.count("Training of llama_4m") == 1
    assert done.stderr.count("step 8: loss") == 1
    report: dict[str, Any] = json.loads((place / name / "train.json").read_text())
    return report


def test_two_processes_train_as_one(tmp_path: Path, server: ForkServer) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(30):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"text number {number} " * (number % 7 + 3))
    launch = (
        *("accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
        *("--dynamo_backend", "no", "--multi_gpu", "--main_process_port", str(free_port())),
        *("--module", "forgather_cli.main"),
    )
    one = run(tmp_path, ("forgather_cli.main",), "one", "--batch-size", "8", server=server)
    two = run(tmp_path, launch, "two", "--batch-size", "4")
    assert one["plan"]["rows"] == two["plan"]["rows"] == 8
    assert two["plan"]["processes"] == 2
    compare(two, one)
