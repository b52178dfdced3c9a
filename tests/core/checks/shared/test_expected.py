"""Failures that a definition expects are reported with its reason, and do not count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forgather_core.checks import EXPECTED, FAILED, PASSED
from forgather_core.checks.shared.expected import expected_reason
from forgather_core.checks.try_check import try_check
from forgather_core.definitions.check import Check, Measured

CASE = "padding=left,mask=2d,cache=static"


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("padding", False),
        ("call-agreement", True),
        ("call-agreement[cache=static]", True),
        ("call-agreement[cache=static,padding=left]", True),
        (f"call-agreement[{CASE}]", True),
        ("call-agreement[cache=dynamic]", False),
        ("call-agreement[cache=static,padding=right]", False),
    ],
)
def test_a_key_is_a_check_or_some_of_its_cases(key: str, found: bool) -> None:
    assert (expected_reason("call-agreement", CASE, {key: "known"}) == "known") is found


def row(expected: Mapping[str, str], *measured: Measured, error: Exception | None = None) -> dict[str, Any]:
    def run(_: Any) -> Iterator[Measured]:
        yield from measured
        if error is not None:
            raise error

    definition = SimpleNamespace(expected_failures=expected)
    subject: Any = SimpleNamespace(definition=definition, default_attention=None)
    return try_check(Check("sums", "They add up.", "a sign", True, run), subject)


def test_only_expected_failures_do_not_fail_a_check() -> None:
    right, wrong, other = Measured("a", 0.0), Measured("b", 1.0), Measured("c", 1.0)
    found = row({"sums[b]": "rounds"}, right, wrong)
    assert (found["result"], found["reason"], found["cause"]) == (EXPECTED, "rounds", None)
    assert [case["expected"] for case in found["measured"]] == [None, "rounds"]
    assert row({"sums[b]": "rounds"}, wrong, other)["result"] == FAILED
    assert row({"sums": "rounds"}, wrong, other)["result"] == EXPECTED
    found = row({"sums": "rounds"}, right)
    assert (found["result"], found["reason"]) == (PASSED, "it does not fail: remove it from expected_failures")
    assert row({"others": "rounds"}, wrong)["result"] == FAILED


def test_an_exception_is_expected_only_for_the_whole_check() -> None:
    assert row({"sums": "no sums"}, error=ValueError("none"))["result"] == EXPECTED
    assert row({"sums[b]": "no sums"}, error=ValueError("none"))["result"] == FAILED


def test_the_report_counts_them_apart(tmp_path: Path) -> None:
    from forgather_core.checks.run import _report

    rows = [row({"sums": "rounds"}, Measured("b", 1.0)), row({}, Measured("a", 0.0))]
    report = _report(tmp_path, dict(enumerate(rows)), [], full=False, seed=0, began=0.0)
    assert (report["passed"], report["failed"], report["skipped"], report["expected"]) == (1, 0, 0, 1)
