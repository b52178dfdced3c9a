"""Start the processes of `parallel-agreement`, and collect what they have computed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .mesh_rank import MeshTask

_SECONDS = 600
_OF_ANOTHER_LAUNCHER = frozenset({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"})
MODULE = "forgather_core.checks.shared.mesh_rank"


class MeshRunError(Exception):
    """The processes have not computed their task; the message has the first error."""


def run_mesh(task: MeshTask, processes: int, directory: Path) -> list[dict[str, Any]]:
    """Run a task in the processes of a mesh, and return the results of each.

    Args:
        task: The task.
        processes: The number of processes.
        directory: An empty directory for the task and its results.

    Raises:
        MeshRunError: A process raised an error, died, or the processes did not end.
    """
    torch.save(asdict(task), directory / "task.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_LAUNCHER}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    launched = subprocess.Popen(
        [*command, "-m", MODULE, str(directory)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        _, errors = launched.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        problem = f"{processes} processes have not ended after {_SECONDS} s: they wait for each other"
        raise MeshRunError(problem) from None
    finally:
        _end(launched)
    if launched.returncode:
        raise MeshRunError(_first_error(directory, errors))
    return [torch.load(directory / f"rank-{rank}.pt", weights_only=True) for rank in range(processes)]


def _end(launched: subprocess.Popen[str]) -> None:
    """End the launcher, which ends the processes."""
    if launched.poll() is None:
        launched.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            launched.wait(60)
        launched.kill()


def _first_error(directory: Path, errors: str) -> str:
    """Return the error of the process that failed first, in one line."""
    files = sorted(directory.glob("error-*.txt"), key=lambda file: file.stat().st_mtime_ns)
    lines = [line for line in (files[0].read_text(encoding="utf-8") if files else errors).splitlines() if line.strip()]
    rank = f"process {files[0].stem.removeprefix('error-')}: " if files else ""
    return rank + (lines[-1].strip() if lines else "a process died without an error")
