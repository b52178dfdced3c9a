"""Tests run side by side share the processor: each has one thread, before anything has loaded torch.

Of a test with many cases, `@pytest.mark.few(N)` leaves N that are tried each time; the others are slow tests.
The entries of `@pytest.mark.regression` go into pytest's XML report, where tools/regressions.py reads them. It
sets FORGATHER_REGRESSIONS, the entries whose tests are run, and FORGATHER_TEST_SECONDS, after which a test fails: on an
older commit some would wait forever.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

# A busy machine makes examples slow to draw and to run; tests check behaviour, never time.
settings.register_profile("forgather", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("forgather")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before cases are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow all but N cases of a test, whichever a digest of their names puts first; report regressions."""
    cases: dict[tuple[str, int], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if (few := item.get_closest_marker("few")) is not None and item.get_closest_marker("slow") is None:
            cases[item.nodeid.partition("[")[0], few.args[0]].append(item)
    for (_, keep), found in cases.items():
        for item in sorted(found, key=lambda item: crc32(item.name.encode()))[keep:]:
            item.add_marker(pytest.mark.slow)
    for item in items:
        for mark in item.iter_markers("regression"):
            item.user_properties += [("regression", entry) for entry in mark.args]
    if chosen := os.environ.get("FORGATHER_REGRESSIONS"):
        kept = {("regression", entry) for entry in chosen.split(",")}
        items[:] = [item for item in items if kept.intersection(item.user_properties)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that takes longer than is allowed."""
    seconds = int(os.environ.get("FORGATHER_TEST_SECONDS", "0"))
    if seconds:
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(seconds)
    try:
        return (yield)
    finally:
        if seconds:
            signal.alarm(0)


def _too_long(*_: object) -> None:
    raise TimeoutError("the test took too long")
