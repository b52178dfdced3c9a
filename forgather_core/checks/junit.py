"""The report of `verify` as JUnit XML: one suite for each check, one test case for each measured case."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from ..definitions.check import failure_text

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(report: Mapping[str, Any]) -> str:
    """Return the report of `verify` as an XML document.

    A check that was skipped or raised an exception adds a test case with the name of the check. Each suite has the time
    of its check, in seconds.
    """
    root = ElementTree.Element("testsuites", name=_text(report.get("model_name") or report["directory"]))
    for check in report["checks"]:
        suite = ElementTree.SubElement(root, "testsuite", name=check["name"], time=f"{check['seconds']:.3f}")
        for case in check["measured"]:
            test = _test(suite, check["name"], case["what"])
            if case.get("expected"):
                ElementTree.SubElement(test, "skipped", message=_text(f"failed as expected: {case['expected']}"))
            elif not case["holds"]:
                ElementTree.SubElement(test, "failure", message=_text(failure_text(case))).text = _text(
                    check["promise"]
                )
        if check["reason"] and check["result"] in ("failed", "skipped"):
            failed = check["result"] == "failed"
            test = _test(suite, check["name"], check["name"])
            ElementTree.SubElement(test, "error" if failed else "skipped", message=_text(check["reason"]))
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
        suite.set("tests", str(len(suite)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _test(suite: ElementTree.Element, check: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=f"verify.{check}", name=_text(name))


def _text(text: str) -> str:
    """Replace the characters that XML does not allow by U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)
