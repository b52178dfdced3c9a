"""Failures of checks state what was expected and found; `where` is a place only."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from forgather_core.checks.precision import _check_dtypes
from forgather_core.checks.standalone import _run
from forgather_core.definitions.check import Measured, failure_text, shown_failures


def test_a_parameter_of_another_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)
    cases = [case.as_dict() for case in _check_dtypes("from_pretrained", model, model)]
    assert [failure_text(case) for case in cases] == [
        f"from_pretrained: {name}: expected bfloat16, got float32" for name in ("weight", "bias")
    ]
    low = nn.Linear(2, 2).to(torch.bfloat16)
    monkeypatch.setattr(low, "_keep_in_fp32_modules_strict", ["weight"], raising=False)
    (case, *_) = [case.as_dict() for case in _check_dtypes("to", low, model)]
    assert failure_text(case) == "to: weight: expected the values of the float32 model, got bfloat16"


def test_a_process_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def runs_on(*_: Any, **more: Any) -> None:
        raise subprocess.TimeoutExpired("python", more["timeout"])

    monkeypatch.setattr(subprocess, "run", runs_on)
    assert _run({}, tmp_path) == {"the program": "the process did not end within 300 s"}


def test_explained_failures_are_neither_shown_nor_counted() -> None:
    cases = [Measured(str(n), 1.0, 0.5, explained_by="0" if n % 2 else None).as_dict() for n in range(9)]
    assert shown_failures(cases, 3) == ([f"{n}: off by 1, tolerance 0.5" for n in (0, 2, 4)], 2)
    assert shown_failures([Measured("holds", 0.0).as_dict()], 3) == ([], 0)
