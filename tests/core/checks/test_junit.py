"""The report of `verify` as JUnit XML."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from forgather_core.checks.junit import junit_xml
from forgather_core.definitions.check import Measured


def check(name: str, *measured: Measured, result: str = "passed", reason: str | None = None) -> dict[str, Any]:
    cases = [one.as_dict() for one in measured]
    return {"name": name, "promise": "It holds.", "result": result, "measured": cases, "reason": reason, "seconds": 1.5}


def test_each_case_is_a_test_case_of_the_suite_of_its_check() -> None:
    wrong = Measured("eager <1>", 0.5, 0.1, "row 0")
    report = {
        "directory": "output_models/one",
        "checks": [
            check("first", Measured("all", 0.0), wrong, result="failed"),
            check("second", result="skipped", reason="no window"),
            check("third", Measured("all", 0.0), result="failed", reason="ValueError: \x00 is wrong"),
        ],
    }
    root = ElementTree.fromstring(junit_xml(report))
    assert (root.tag, root.get("name")) == ("testsuites", "output_models/one")
    counts = [
        [suite.get(name) for name in ("name", "tests", "failures", "errors", "skipped", "time")] for suite in root
    ]
    assert counts == [
        ["first", "2", "1", "0", "0", "1.500"],
        ["second", "1", "0", "0", "1", "1.500"],
        ["third", "2", "0", "1", "0", "1.500"],
    ]
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None and failure.text == "It holds."
    assert failure.get("message") == "eager <1>: off by 0.5, tolerance 0.1, at row 0"
    names = [(test.get("classname"), test.get("name")) for test in root.iter("testcase")]
    assert names[:3] == [("verify.first", "all"), ("verify.first", "eager <1>"), ("verify.second", "second")]
    error = root.find("testsuite/testcase/error")
    assert error is not None and error.get("message") == "ValueError: \ufffd is wrong"


def test_expected_failures_are_skipped() -> None:
    wrong = check("sums", Measured("b", 1.0), result="failed as expected", reason="rounds")
    wrong["measured"][0]["expected"] = "rounds"
    remark = check("more", Measured("a", 0.0), reason="it does not fail: remove it from expected_failures")
    root = ElementTree.fromstring(junit_xml({"directory": "x", "checks": [wrong, remark]}))
    counts = [[suite.get(name) for name in ("tests", "failures", "errors", "skipped")] for suite in root]
    assert counts == [["1", "0", "0", "1"], ["1", "0", "0", "0"]]
    skipped = root.find("testsuite/testcase/skipped")
    assert skipped is not None and skipped.get("message") == "failed as expected: rounds"
