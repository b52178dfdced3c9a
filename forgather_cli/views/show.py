"""The view of `show`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from ..tables import grid, pairs
from .construct import options


def resolved_options(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of resolved options."""
    head = {
        "configuration": report["configuration"],
        "directory": report["directory"],
        "source": report["source"],
        "parameters": f"{report['expected_parameters']:,}" if report["expected_parameters"] else None,
    }
    parts = [
        pairs(report["model_name"], head),
        options(f"Options of {report['definition']}", report["options"]),
        options("Shared options", report["shared_options"]),
    ]
    return Group(*parts, *([_initial_weights(report["initial_weights"])] if "initial_weights" in report else []))


def _initial_weights(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the numbered rules of the initialization table and the weights that each rule initializes."""
    rules = list(dict.fromkeys((row["pattern"], row["rule"]) for row in rows))
    drawn = [
        (
            str(rules.index((row["pattern"], row["rule"])) + 1),
            row["weight"] + ("" if row["trainable"] else " (fixed)"),
            " x ".join(map(str, row["shape"])),
            row["count"],
            f"{row['std']:.4g}",
        )
        for row in rows
    ]
    numbered = [(str(number), *rule) for number, rule in enumerate(rules, start=1)]
    return Group(
        grid("Initialization: the first matching pattern applies", ("", "pattern", "rule"), numbered),
        grid("", ("", "weight", "shape", "count", "init std"), drawn, right=(3, 4), dense=True),
    )
