"""Refuse work that does not fit into memory."""

from __future__ import annotations

import pytest

from forgather_core.errors import BuildError
from forgather_core.runtime import memory_guard


def test_what_to_do_is_the_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_guard, "free_memory", lambda device: 2**30)
    memory_guard.refuse_too_large("this model", "cpu", [lambda: 2**40, lambda: 2**20])
    with pytest.raises(BuildError) as caught:
        memory_guard.refuse_too_large("this model", "cpu", [lambda: 2**40, lambda: 2**32])
    assert caught.value.problem == "this model needs about 4.0 GiB, and 1.0 GiB is free on cpu"
    assert caught.value.hint == "choose a smaller model or batch, or add --force to try anyway"
