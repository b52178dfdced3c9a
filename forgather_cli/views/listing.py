"""Views of `ls` and `plugins`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from ..render import Text, link, notes
from ..tables import grid


def models(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of all definitions, presets and configurations."""
    parts: list[RenderableType] = []
    for definition in report["definitions"]:
        title = f"{definition['name']}: {definition['summary']}"
        parts += [_presets(title, definition["presets"], definition["default_preset"]), Text()]
    if report["configurations"]:
        parts += [_presets("Configurations of this project", report["configurations"], None), Text()]
    if report["broken"]:
        parts.append(notes([f"broken plugins: {', '.join(report['broken'])} (details: forgather plugins)"]))
    return Group(*parts)


def _presets(title: str, presets: Sequence[Mapping[str, Any]], default: str | None) -> RenderableType:
    columns = ("-t", "parameters", "layers", "hidden", "vocab", "source")
    rows, errors = [], []
    for row in presets:
        name = row["name"] + (" (default)" if default and row["name"].endswith(f"/{default}") else "")
        if "error" in row:
            errors.append(Text(f"{name}: {row['error']}", "red"))  # not in a cell, which would fold the text
            continue
        numbers = [
            f"{row[k]:,}" if row[k] is not None else ""
            for k in ("parameters", "num_hidden_layers", "hidden_size", "vocab_size")
        ]
        extends = f"extends {row['extends']}" if row["extends"] else ""
        rows.append((name, *numbers, link(row["source"]) if row["source"] else extends))
    return Group(grid(title, columns, rows, right=(1, 2, 3, 4)), *errors)


def plugins(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of all plugins."""
    rows = report["plugins"]
    columns = ("name", "version", "distribution", "state", "file")
    drawn = [
        (r["name"], r["version"], r["distribution"], _state(r["state"]), r["file"] or r["entry_point"]) for r in rows
    ]
    errors = [Text(f"{row['name']}: {row['error']}", "red") for row in rows if row["error"]]
    slow = [f"{row['name']}: {row['slow']}" for row in rows if row["slow"]]
    return Group(grid("Plugins", columns, drawn), *errors, notes(slow))


def _state(state: str) -> Text:
    return Text(state, {"ok": "green", "broken": "bold red"}.get(state, "yellow"))
