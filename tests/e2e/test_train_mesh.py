"""A training run over a device mesh equals that of one process, and continues on any other mesh."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.fork_server import ForkServer

from .conftest import run_in

pytestmark = pytest.mark.slow

MODEL = (
    *("-t", "llama/4M", "model", "--device", "cpu", "--tokenizer", "bytes", "--num-hidden-layers", "1"),
    *("--hidden-size", "32", "--intermediate-size", "32", "--num-attention-heads", "4", "--num-key-value-heads", "2"),
)
RUN = (
    *("train", "--dataset-project", "texts", "--sequence-length", "32", "--lr", "1e-2", "--log-every", "1"),
    *("--save-every", "4", "--eval-every", "8"),
)
MESHES = {
    "one": ("--batch-size", "8"),
    "ddp": ("--batch-size", "4", "--parallel", "ddp", "--nproc-per-node", "2"),
    "fsdp": ("--batch-size", "4", "--parallel", "fsdp", "--nproc-per-node", "2"),
    "tp": ("--batch-size", "8", "--parallel", "tp", "--nproc-per-node", "2"),
    "fsdp=2,tp=2": (
        *("--batch-size", "2", "--gradient-accumulation-steps", "2"),
        *("--parallel", "fsdp=2,tp=2", "--nproc-per-node", "4"),
    ),
}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for number in range(30):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"text number {number} " * (number % 7 + 3))
    return tmp_path


def command(mesh: str, tokens: str, *options: str) -> tuple[str, ...]:
    return ("-m", "forgather", *MODEL, "--output-dir", "model", *RUN, "--tokens", tokens, *MESHES[mesh], *options)


def record(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "model" / "train.json").read_text())
    return found


def compare(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert [step["step"] for step in found["steps"]] == [step["step"] for step in expected["steps"]]
    for a, b in zip(found["steps"], expected["steps"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    for a, b in zip(found["evaluations"], expected["evaluations"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["tokens"] == b["tokens"]
    assert found["samples"] == expected["samples"]


def whole_run(texts: Path, server: ForkServer, tokens: str, *options: str) -> dict[str, Any]:
    place = texts / "alone"
    place.mkdir()
    (place / "texts").symlink_to(texts / "texts")
    run_in(place, server, OMP_NUM_THREADS="1")(*command("one", tokens, *options))
    return record(place)


@pytest.mark.few(0, slow=2)
@pytest.mark.parametrize("mesh", ["fsdp", "tp", "fsdp=2,tp=2"])
def test_a_mesh_trains_as_one_process(texts: Path, server: ForkServer, mesh: str) -> None:
    expected = whole_run(texts, server, "4k")
    done = run_in(texts, None, OMP_NUM_THREADS="1")(*command(mesh, "4k"))
    assert done.stdout.count("Training of llama_4m") == 1
    compare(record(texts), expected)
    # The final weights, whole, in one process.
    sampled = run_in(texts, server)("-m", "forgather", "sample", "model", "text number", "--temperature", "0")
    alone = run_in(texts / "alone", server)("-m", "forgather", "sample", "model", "text number", "--temperature", "0")
    assert sampled.stdout == alone.stdout


def test_a_mesh_trains_in_mixed_precision(texts: Path, server: ForkServer) -> None:
    expected = whole_run(texts, server, "4k", "--mixed-precision", "bf16")
    run_in(texts, None, OMP_NUM_THREADS="1")(*command("fsdp", "4k", "--mixed-precision", "bf16"))
    found = record(texts)
    losses, others = ([step["loss"] for step in one["steps"]] for one in (found, expected))
    assert losses == pytest.approx(others, abs=0.02)  # FSDP rounds more values to bfloat16 than autocast does
    assert found["evaluations"][-1]["loss"] == pytest.approx(expected["evaluations"][-1]["loss"], abs=0.02)


@pytest.mark.few(0, slow=1)
@pytest.mark.parametrize("meshes", [("fsdp", "tp", "fsdp=2,tp=2", "one"), ("one", "fsdp=2,tp=2", "ddp", "fsdp")])
def test_a_killed_run_continues_on_another_mesh(texts: Path, server: ForkServer, meshes: tuple[str, ...]) -> None:
    tokens = "12k"  # 47 steps
    expected = whole_run(texts, server, tokens)
    for mesh, step in zip(meshes, (8, 16, 24), strict=False):
        kill_after(texts, step, command(mesh, tokens, "--resume"))
    run_in(texts, None, OMP_NUM_THREADS="1")(*command(meshes[-1], tokens, "--resume"))
    compare(record(texts), expected)


def kill_after(place: Path, step: int, arguments: tuple[str, ...]) -> None:
    """Run a command, and kill its processes when it has saved the checkpoint of a step."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not (place / "model" / "checkpoints" / f"checkpoint-{step}").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    for child in [int(line) for line in found.stdout.split()] or [process.pid]:
        os.kill(child, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert "final" not in record(place) or record(place)["final"] is None
