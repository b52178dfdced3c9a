"""The number of processor cores that this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Return the cores that the system allows (1 if they are unknown), at most OMP_NUM_THREADS."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    requested = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # OpenMP's list has a number for each level
    return min(available, int(requested) or available) if requested.isdecimal() else available
