"""The number of cores follows OMP_NUM_THREADS and the system."""

from __future__ import annotations

import os

import pytest

from forgather_core.runtime.cores import usable_cores


@pytest.mark.parametrize("words", [None, "", "0", "several"])
def test_without_a_number_the_system_decides(words: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if words is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", words)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 1


def test_a_number_limits_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert usable_cores() == 7
