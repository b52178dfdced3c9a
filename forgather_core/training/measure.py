"""Measure time and the memory of the device and of the process."""

from __future__ import annotations

import mmap
import time
from contextlib import suppress
from pathlib import Path

import torch

from ..filesystem.posix import peak_memory

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def now(device: torch.device) -> float:
    """Wait for the device to finish its work, and return the time in seconds on a monotonic clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def begin(device: torch.device) -> float:
    """Reset the counters of peak memory, and return the time.

    Returns:
        The time in seconds, on the clock of `now`.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # on other systems the peak covers the whole process
        _CLEAR.write_text("5")  # Linux: resets VmHWM, the peak of this process
    return now(device)


def device_peak(device: torch.device) -> int | None:
    """Return the peak memory that torch allocated on the device since `begin`, in bytes; None if not counted."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def host_peak() -> int:
    """Return the peak memory of this process in bytes: since `begin` on Linux, since its start on other systems."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):
        return peak_memory()


def host_now() -> int | None:
    """Return the memory of this process in bytes; None if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * mmap.PAGESIZE
