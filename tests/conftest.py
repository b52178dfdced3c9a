"""Tests run side by side share the processor: each has one thread, before anything has loaded torch."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
