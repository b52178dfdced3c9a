"""Configure pytest: one thread per parallel worker (set before torch is imported), markers, time limits.

`@pytest.mark.few(N, slow=M)` runs N cases of a test each time and M more in CI's slow run; the others are marked
exhaustive, and run on request only. Without `slow`, all others are slow; CI runs no slow faults. The entries of
`@pytest.mark.regression` are written to pytest's XML report, which tools/regressions.py reads. It sets
FORGATHER_REGRESSIONS, the entries to run, and FORGATHER_TEST_SECONDS, the time limit of a test: on an older commit some
would wait forever.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

# Examples are slow on a busy machine; tests check behaviour, never time.
settings.register_profile("forgather", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("forgather")

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all but few cases of a test, chosen by a digest of their names; and regressions; long files come first."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("few") is not None and not (
            item.get_closest_marker("slow") or item.get_closest_marker("exhaustive")
        ):
            cases[item.nodeid.partition("[")[0]].append(item)
    for found in cases.values():
        few = found[0].get_closest_marker("few")
        assert few is not None
        (keep,), slow = few.args, few.kwargs.get("slow", len(found))
        ordered = sorted(found, key=lambda item: crc32(item.name.encode()))
        for item in ordered[keep : keep + slow]:
            item.add_marker(pytest.mark.slow)
        for item in ordered[keep + slow :]:
            item.add_marker(pytest.mark.exhaustive)
    for item in items:
        for mark in item.iter_markers("regression"):
            item.user_properties += [("regression", entry) for entry in mark.args]
    # One worker runs a file whose tests share processes: a long one, started last, would run alone at the end.
    items.sort(key=lambda item: (item.path.name != "test_pages.py", item.path.parent.name not in ("e2e", "faults")))
    if chosen := os.environ.get("FORGATHER_REGRESSIONS"):
        kept = {("regression", entry) for entry in chosen.split(",")}
        items[:] = [item for item in items if kept.intersection(item.user_properties)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that exceeds the time limit."""
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
