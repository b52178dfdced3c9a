"""Views of `verify` and `verify --list`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import Any

from rich.console import Group, RenderableType

from forgather_core.definitions.check import shown_failures
from forgather_core.pages.units import by_reason

from ..render import Text, notes
from ..tables import grid

_COLOURS = {"passed": "green", "failed": "bold red"}
_COLUMNS = ("check", "result", "cases", "error", "tolerance", "time")
_MAX_CASES = 6  # cases of one check that are listed individually


def verification(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of a verification: one row per check, then the details of failed checks."""
    checks = report["checks"]
    shape = "full size" if report["full"] else "small copy with the same features"
    seed = f", seed {report['seed']}" if report["seed"] else ""
    count = f"{report['passed']} passed, {report['failed']} failed, {report['skipped']} skipped"
    if report["expected"]:
        count += f", {report['expected']} failed as expected"
    return Group(
        Text(f"{report['directory']}, {shape}{seed}", "bold"),
        grid("", _COLUMNS, _rows(checks), right=(2, 3, 4, 5), drop=(5, 2, 4, 3)),
        *(line for check in checks if check["result"] == "failed" for line in _failure(check)),
        *(
            Text(f"{check['name']} {check['result']}: {check['reason']}", "dim")
            for check in checks
            if _has_remark(check)
        ),
        *(line for check in checks if check["details"].get("levels") for line in _coverage(check)),
        Text(f"\n{count}, in {report['seconds']:.1f} s\n", _colour(report)),
        notes(report.get("notes", ())),
    )


def _colour(report: Mapping[str, Any]) -> str:
    if report["failed"]:
        return "bold red"
    return "bold green" if report["passed"] and report["complete"] else "bold yellow"  # or no check applied


def _has_remark(check: Mapping[str, Any]) -> bool:
    return check["result"] != "failed" and bool(check["reason"])


def _rows(checks: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    rows = []
    for check in checks:
        result = Text(check["result"], _COLOURS.get(check["result"], "yellow"))
        error, allowed = _worst(check["measured"])
        rows.append((check["name"], result, len(check["measured"]) or "", error, allowed, f"{check['seconds']:.2f} s"))
    return rows


def _worst(measured: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the error with the highest ratio to its tolerance, and that tolerance."""
    if not measured:
        return "", ""
    worst = max(measured, key=lambda one: _excess(one["error"], one["tolerance"]))
    return _number(worst["error"]), "equal" if worst["tolerance"] == 0 else _number(worst["tolerance"])


def _excess(error: float, tolerance: float) -> float:
    if isnan(error):
        return float("inf")
    return error / tolerance if tolerance else float("inf") if error else 0.0


def _number(value: float) -> str:
    return f"{value:.2g}"


def _failure(check: Mapping[str, Any]) -> Iterator[Text]:
    yield Text(f"\n{check['name']}: {check['promise']}", "bold red")
    if check["reason"]:
        yield Text(f"  raised {check['reason']}")
    failures, more = shown_failures(check["measured"], _MAX_CASES)
    yield from (Text(f"  {failure}") for failure in failures)
    if more:
        yield Text(f"  and {more} more cases")
    yield Text(f"  usual cause: {check['cause']}", "yellow")


def _coverage(check: Mapping[str, Any]) -> Iterator[Text]:
    """Yield the number of combinations that ran, and the levels that do not apply, with their reasons."""
    details = check["details"]
    levels = sum(len(names) for names in details["levels"].values())
    combined = {2: "pairs", 3: "triples"}.get(details["strength"])
    ran = f"all {details['combinations']:,} {combined} of {levels} levels in " if combined else ""
    count = len(details["cases"])
    yield Text(f"{check['name']} ran {ran}{count} case{'' if count == 1 else 's'}", "dim")
    yield from (Text(f"  without {levels}", "dim") for levels in by_reason(details["inapplicable"]))


def checks(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of `verify --list`: one row per check."""
    return grid("Checks", ("check", "promise"), [(row["name"], row["promise"]) for row in report["checks"]])
