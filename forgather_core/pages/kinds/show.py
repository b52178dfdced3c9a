"""The page of `show`: options with their origins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..content import Content, Figure
from ..html import Html, badge, brief, card, joined, link, tag
from ..tables import table
from ..units import count_of, shape_of, small_of, text_of

_UNSET = ("default", "derived")


def settings(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of resolved options."""
    values = {**report["options"], **report["shared_options"]}
    origins = Counter(item["origin"] for item in values.values())
    flags = sum(count for origin, count in origins.items() if origin.startswith("--"))
    expected = report["expected_parameters"]
    figures = [
        Figure("Options", str(len(values)), f"{len(report['options'])} of {report['definition']}"),
        Figure("Set by flags", str(flags)),
        Figure("Defaults", str(origins["default"])),
    ]
    if expected:
        figures.append(Figure("Parameters of the preset", count_of(expected), f"{expected:,}"))
    return Content(
        kind="Resolved options",
        title=report["model_name"],
        subtitle=_subtitle(report),
        figures=figures,
        blocks=[
            options_card(f"Options of {report['definition']}", report["options"]),
            options_card("Shared options", report["shared_options"]),
            *_initial_weights(report.get("initial_weights") or ()),
        ],
    )


def _subtitle(report: Mapping[str, Any]) -> Html:
    text = brief(f"{report['configuration']} in {report['directory']}")
    return joined([text, ", from ", link(report["source"])]) if report["source"] else text


def options_card(title: str, values: Mapping[str, Mapping[str, Any]]) -> Html:
    """Return a table of options with their values and origins; values that were set stand out."""
    rows = [(name, text_of(item["value"]), _source(item["origin"])) for name, item in values.items()]
    return card(title, table(("option", "value", "origin"), rows, code=(0, 1), name=title))


def _source(origin: str) -> Html:
    return tag("span", origin, class_="fg-muted") if origin in _UNSET else badge(origin)


def _initial_weights(rows: Sequence[Mapping[str, Any]]) -> list[Html]:
    """Return the rules of the initialization table, and the weights that each rule initializes."""
    if not rows:
        return []
    rules = list(dict.fromkeys((row["pattern"], row["rule"]) for row in rows))
    drawn = [
        (
            row["weight"] + ("" if row["trainable"] else " (fixed)"),
            rules.index((row["pattern"], row["rule"])) + 1,
            shape_of(row["shape"]),
            row["count"],
            small_of(row["std"]),
        )
        for row in rows
    ]
    numbered = [(str(number), *rule) for number, rule in enumerate(rules, start=1)]
    return [
        card(
            "Initialization",
            table(("no.", "pattern", "rule"), numbered, code=(1,), name="rules"),
            lead="The first matching pattern applies.",
        ),
        card(
            "Initial weights",
            table(("weight", "rule", "shape", "count", "init std"), drawn, right=(1, 3, 4), code=(0,), name="weights"),
        ),
    ]
