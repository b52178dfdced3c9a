"""The number of cores follows OMP_NUM_THREADS and the system."""

from __future__ import annotations

import os

import pytest

from forgather_core.runtime.cores import usable_cores


@pytest.mark.parametrize(
    ("words", "cores"),
    [(None, 3), ("", 3), ("0", 3), ("several", 3), ("\u00b2", 3), ("1", 1), ("2", 2), ("2,1", 2), ("7", 3)],
)
def test_the_number_is_that_of_the_system_or_less(
    words: str | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", words)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert usable_cores() == cores


def test_an_unknown_number_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == 1
