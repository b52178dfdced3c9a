"""The page of `verify`: failed checks first, with their causes, and the errors of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..content import Content, Figure
from ..drawing import chart
from ..html import Html, badge, brief, card, columns, escaped, joined, prose, sentences, stack, tag
from ..lines import Ratios, ratios
from ..matrix import pairs_matrix
from ..tables import table
from ..units import by_reason, share_of, small_of

_ORDER = {"failed": 0, "passed": 1}
_TONES = {"failed": "bad", "passed": "good"}
_MOST_CASES = 4  # maximum number of cases listed for a failed check
_MOST_NEAR = 8
_NEAR = 0.01  # minimum error listed as near, as a fraction of the tolerance


def verification(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of a verification."""
    checks = sorted(report["checks"], key=lambda check: _ORDER.get(check["result"], 2))
    failed = [check for check in checks if check["result"] == "failed"]
    shape = "the model itself" if report["full"] else "a small copy with the same features"
    return Content(
        kind="Verification",
        title=report.get("model_name") or report["directory"],
        subtitle=f"{report['directory']}: {shape}" if report.get("model_name") else f"Checked: {shape}",
        figures=_figures(report),
        blocks=[
            _columns(checks, failed),
            *(_calls(check) for check in checks if check["details"].get("levels")),
            *([_checks(checks)] if checks else []),
        ],
        notes=report.get("notes") or (),
    )


def _columns(checks: Sequence[Mapping[str, Any]], failed: Sequence[Mapping[str, Any]]) -> Html:
    drawn, near = _chart(checks), _nearest_to_tolerance(checks)
    skipped = _with_result("skipped", "Skipped: these do not apply to the model", checks)
    expected = _with_result("failed as expected", "Expected failures of the definition", checks)
    if failed:
        return columns(stack(_failures(failed), expected, skipped), stack(drawn, near))
    return columns(drawn, stack(near, expected, skipped))


def _figures(report: Mapping[str, Any]) -> list[Figure]:
    passed, failed, skipped = (report[name] for name in ("passed", "failed", "skipped"))
    seconds = sum(check["seconds"] for check in report["checks"])
    cases = sum(len(check["measured"]) for check in report["checks"])
    if failed:
        verdict = Figure("Result", "failed", f"{failed} of {passed + failed} checks", "bad")
    elif not report["complete"]:
        verdict = Figure("Result", "incomplete", f"{passed} checks passed", "warn")
    elif passed:
        verdict = Figure("Result", "passed", f"all {passed} checks" if passed > 1 else "1 check", "good")
    else:
        verdict = Figure("Result", "unknown", "no check applied", "warn")
    return [
        verdict,
        Figure("Checks passed", str(passed), f"{cases:,} cases in all checks"),
        Figure("Skipped", str(skipped)),
        Figure("Time", f"{seconds:.1f} s", f"seed {report['seed']}" if "seed" in report else ""),
    ]


def _failures(checks: Sequence[Mapping[str, Any]]) -> Html:
    return card("Failed checks" if len(checks) > 1 else "Failed check", *map(_failure, checks))


def _failure(check: Mapping[str, Any]) -> Html:
    from ...definitions.check import shown_failures  # imported here, because it imports torch

    failures, more = shown_failures(check["measured"], _MOST_CASES)
    cases: list[object] = [*failures, f"and {more:,} more cases"] if more else [*failures]
    parts = [tag("h3", brief(check["name"])), tag("p", prose(check["promise"]), class_="fg-muted")]
    if check["reason"]:
        parts.append(tag("p", "Reason: ", brief(check["reason"])))
    parts += [sentences(cases)] if cases else []
    if check["cause"]:
        parts.append(tag("p", tag("b", "Usual cause: "), prose(check["cause"]), class_="fg-cause"))
    return tag("div", *parts, class_="fg-failure")


def _chart(checks: Sequence[Mapping[str, Any]]) -> Html | None:
    rows = {
        check["name"]: Ratios([_ratio(one) for one in check["measured"]], check["result"] == "failed")
        for check in checks
        if check["measured"]
    }
    if not rows:
        return None
    lead = "Each dot is a case, the large one the worst; beyond the dashed line a case fails"
    return chart("Errors and tolerances", ratios("Errors and tolerances", rows), lead=lead)


def _nearest_to_tolerance(checks: Sequence[Mapping[str, Any]]) -> Html | None:
    """Return the worst passing case of each check: on another machine, these may fail first."""
    worst = []
    for check in checks:
        cases = [(_ratio(one), check["name"], one["what"]) for one in check["measured"] if one["holds"]]
        worst += [max(cases)] if cases else []
    near = sorted((case for case in worst if case[0] >= _NEAR), reverse=True)[:_MOST_NEAR]
    rows = [(name, what, share_of(ratio, 1)) for ratio, name, what in near]
    if not rows:
        return None
    drawn = table(("check", "case", "error"), rows, right=(2,), code=(0,), name="nearest")
    return card("Nearest to their tolerances", drawn, lead="Worst passing cases; errors as fractions of tolerances")


def _ratio(case: Mapping[str, Any]) -> float:
    """Return error / tolerance; infinity for any error where none is allowed."""
    error, tolerance = case["error"], case["tolerance"]
    if not isinstance(error, (int, float)) or math.isnan(error):
        return math.inf
    return float(error / tolerance) if tolerance else math.inf if error else 0.0


def _calls(check: Mapping[str, Any]) -> Html:
    """Return the card of a check that combines ways to call a model: a chart, the causes, and levels left out."""
    details = check["details"]
    levels = {name: names for name, names in details["levels"].items() if len(names) > 1}
    plain = {name: names[0] for name, names in details["levels"].items()}
    cases = [plain | _levels_of(case["case"]) for case in details["cases"]]
    causes = {case["cause"] for case in details["cases"] if case["cause"]}
    lead = (
        f"{details['combinations']:,} combinations of levels in {len(cases):,} cases. A square is a pair of factors: "
        "red if a combination of their levels fails, pale if few combinations are valid"
    )
    title = "Ways to call the model"
    drawn = chart(title, pairs_matrix(title, levels, cases, [_levels_of(cause) for cause in causes]), lead=lead)
    left_out = by_reason(details["inapplicable"])
    failed = [f"{cause.replace(',', ' + ')}: {_count(cause, details)} of the cases" for cause in sorted(causes)]
    return columns(
        drawn,
        stack(
            card("Levels that fail together", sentences(failed)) if failed else None,
            card("Levels that do not apply to the model", sentences(left_out)) if left_out else None,
        ),
    )


def _count(cause: str, details: Mapping[str, Any]) -> int:
    return sum(case["cause"] == cause for case in details["cases"])


def _levels_of(case: str) -> dict[str, str]:
    """Return the levels in the id of a case, without plain ones."""
    return dict(part.split("=", 1) for part in case.split(",")) if case != "plain" else {}


def _with_result(result: str, title: str, checks: Sequence[Mapping[str, Any]]) -> Html | None:
    """Return the card of the checks with a result, with their reasons."""
    rows = [
        joined([tag("b", brief(check["name"])), escaped(": "), brief(check["reason"] or "")])
        for check in checks
        if check["result"] == result
    ]
    return card(title, sentences(rows)) if rows else None


def _checks(checks: Sequence[Mapping[str, Any]]) -> Html:
    heads = ("check", "result", "promise", "cases", "error", "tolerance", "time")
    rows = []
    for check in checks:
        worst = max(check["measured"], key=_ratio, default=None)
        error = small_of(worst["error"]) if worst else ""
        allowed = "" if worst is None else small_of(worst["tolerance"]) if worst["tolerance"] else "equal"
        result = badge(check["result"], _TONES.get(check["result"], ""))
        cases = f"{len(check['measured']):,}" if check["measured"] else ""
        rows.append(
            (check["name"], result, prose(check["promise"]), cases, error, allowed, f"{check['seconds']:.2f} s")
        )
    drawn = table(heads, rows, right=(3, 4, 5, 6), code=(0,), name="checks")
    return card("Checks", drawn, lead="error: of the case with the largest error relative to its tolerance")
