"""The pages of lists, such as models, plugins, checks and datasets, and of a new plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..content import Content, Figure
from ..html import Html, badge, brief, card, joined, link, prose, sentences, tag
from ..tables import table
from ..units import integer_of, text_of

_MOST_CARDS = 100


def models(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of all definitions, presets and configurations."""
    definitions, configurations = report["definitions"], report["configurations"]
    blocks = [
        _presets(one["name"], one["summary"], one["presets"], one["default_preset"])
        for one in definitions[:_MOST_CARDS]
    ]
    if configurations:
        blocks.append(_presets("Configurations of this project", "", configurations, None))
    broken = report["broken"]
    presets = sum(len(one["presets"]) for one in definitions)
    return Content(
        kind="Models",
        title="Model definitions and presets",
        figures=[
            Figure("Definitions", f"{len(definitions):,}"),
            Figure("Presets", f"{presets:,}"),
            Figure("Configurations of this project", f"{len(configurations):,}"),
        ],
        blocks=blocks,
        notes=[f"broken plugins: {', '.join(broken)} (details: forgather plugins)"] if broken else (),
    )


def _presets(title: str, summary: str, rows: Sequence[Mapping[str, Any]], default: str | None) -> Html:
    good = [row for row in rows if "error" not in row]
    wrong = [f"{row['name']}: {row['error']}" for row in rows if "error" in row]
    columns = ("-t", "parameters", "layers", "hidden", "vocab", "source")
    keys = ("parameters", "num_hidden_layers", "hidden_size", "vocab_size")
    drawn = [(_name(row["name"], default), *(integer_of(row[key]) for key in keys), _source(row)) for row in good]
    parts = [table(columns, drawn, right=(1, 2, 3, 4), code=(0,), name=title)] if drawn else []
    return card(title, *parts, *([sentences(wrong)] if wrong else []), lead=summary)


def _name(name: str, default: str | None) -> Html:
    is_default = default is not None and name.endswith(f"/{default}")
    return joined([brief(name), *([" ", badge("default")] if is_default else [])])


def _source(row: Mapping[str, Any]) -> Html | str:
    return link(row["source"]) if row["source"] else f"extends {row['extends']}" if row["extends"] else ""


def plugins(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of all plugins."""
    rows = report["plugins"]
    broken = sum(row["state"] == "broken" for row in rows)
    drawn = [
        (
            row["name"],
            badge(row["state"], {"ok": "good", "broken": "bad"}.get(row["state"], "warn")),
            row["version"] or "",
            row["distribution"] or "",
            ", ".join(row["definitions"] or ()),
            row["file"] or row["entry_point"],
        )
        for row in sorted(rows, key=lambda row: row["state"] != "broken")
    ]
    columns = ("name", "state", "version", "distribution", "definitions", "file")
    return Content(
        kind="Plugins",
        title="Plugins that provide definitions",
        figures=[
            Figure("Plugins", f"{len(rows):,}"),
            Figure("Broken", f"{broken:,}", tone="bad" if broken else "good"),
        ],
        blocks=[
            *_errors([(row["name"], row["error"]) for row in rows if row["error"]]),
            card("Plugins", table(columns, drawn, code=(0, 5), name="plugins")),
        ],
        notes=[f"{row['name']}: {row['slow']}" for row in rows if row["slow"]],
    )


def _errors(errors: Sequence[tuple[str, str]]) -> list[Html]:
    drawn = [
        tag("div", tag("h3", brief(name)), tag("p", brief(error)), class_="fg-failure")
        for name, error in errors[:_MOST_CARDS]
    ]
    return [card("Errors", *drawn)] if drawn else []


def package(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of a new plugin."""
    rows = [(file["path"], file["about"] or "") for file in report["files"]]
    return Content(
        kind="New plugin",
        title=report["name"],
        subtitle=f"{report['distribution']} in {report['directory']}",
        figures=[Figure("Files", f"{len(rows):,}")],
        blocks=[
            card("Next", tag("pre", "\n".join(report["next"]))),
            card("Files", table(("file", "purpose"), rows, code=(0,), name="files")),
        ],
    )


def checks(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of the checks of `verify`."""
    rows = [(row["name"], prose(row["promise"])) for row in report["checks"]]
    return Content(
        kind="Checks",
        title="Checks of verify",
        figures=[Figure("Checks", f"{len(rows):,}")],
        blocks=[card("Checks", table(("check", "promise"), rows, code=(0,), name="checks"))],
    )


def datasets(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of dataset projects, or of the configurations of one."""
    rows = report["configurations"]
    good = [row for row in rows if "error" not in row]
    names = list(dict.fromkeys(name for row in good for name in row))
    drawn = [[text_of(row[name]) if name in row else "" for name in names] for row in good]
    wrong = [row["error"] for row in rows if "error" in row]
    return Content(
        kind="Datasets",
        title=report["project"] or "Built-in dataset projects",
        figures=[Figure("Configurations", f"{len(rows):,}")],
        blocks=[card("Configurations", table([name.replace("_", " ") for name in names], drawn))] if good else [],
        notes=wrong,
    )
