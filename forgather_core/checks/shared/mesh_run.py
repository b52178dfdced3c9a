"""Start the processes of `parallel-agreement`, and collect what they have computed."""

from __future__ import annotations

import os
import re
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
_ENDED = re.compile(r"rank\s*:\s*(\d+) \(local_rank.*?exitcode\s*:\s*(-?\d+)", re.DOTALL)
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
    """Return why the processes failed, in one line: the first error, or the death of a process that others miss.

    Args:
        directory: The results.
        errors: What torchrun has written; it lists the exit code of each process that failed.
    """
    if found := _first_file(directory, "error"):
        return found
    ended = {int(rank): int(code) for rank, code in _ENDED.findall(errors)}
    for rank, code in ended.items():
        if code != -signal.SIGTERM and not (directory / f"lost-{rank}.txt").exists():  # torchrun terminates the others
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return f"process {rank} {how}, without an error"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return _first_file(directory, "lost") or (lines[-1] if lines else "a process died without an error")


def _first_file(directory: Path, kind: str) -> str | None:
    """Return the last line of the oldest file of this kind, with its process."""
    files = sorted(directory.glob(f"{kind}-*.txt"), key=lambda file: file.stat().st_mtime_ns)
    if not files:
        return None
    lines = [line.strip() for line in files[0].read_text(encoding="utf-8").splitlines() if line.strip()]
    return f"process {files[0].stem.removeprefix(f'{kind}-')}: {lines[-1] if lines else 'an error without a message'}"
