"""What a step takes: time, and memory of the device and of the process."""

from __future__ import annotations

import mmap
import time
from contextlib import suppress
from pathlib import Path

import torch

from ..filesystem.posix import peak_memory

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def begin(device: torch.device) -> float:
    """Forget the peaks so far.

    Returns:
        Seconds on the clock of `now`.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # elsewhere the peak is that of the whole process
        _CLEAR.write_text("5")  # Linux: the highest mark of the process begins anew
    return now(device)


def device_peak(device: torch.device) -> int | None:
    """Bytes that torch has allocated there at most since `begin`; None where it does not count them."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def host_peak() -> int:
    """Bytes that this process has held at most since `begin`, where the system can tell; else since it began."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):
        return peak_memory()


def host_now() -> int | None:
    """Bytes that this process holds; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * mmap.PAGESIZE
