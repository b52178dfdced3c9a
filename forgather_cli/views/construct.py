"""Views of `construct`, and of options and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from forgather_core.filesystem.printable import shortened
from forgather_core.pages.units import bytes_of

from ..render import MAX_CELL_CHARACTERS, MAX_NOTES, Text, notes
from ..tables import grid, pairs


def construction(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of a constructed model."""
    head = {
        "configuration": report["configuration"],
        "directory": f"{report['directory']} ({report['state']})",
        **{name.replace("_", " "): value for name, value in report["build"].items()},
    }
    parts: list[RenderableType] = [
        pairs(report["model_name"], head),
        options("Configuration", report["options"]),
        pairs("Tokenizer", {name.replace("_", " "): value for name, value in report["tokenizer"].items()}),
        parameters(report["parameters"]),
        *([memory(report["memory"])] if report["memory"] else []),
        compatibility(report["compatibility"]),
    ]
    parts += [_loaded(report["loaded"])] if report["loaded"] else []
    parts += [saved(report["saved"])] if report["saved"] else []
    return Group(*parts, notes([*report["notes"], *_weight_notes(report)]))


def _weight_notes(report: Mapping[str, Any]) -> list[str]:
    """Return the notes about loaded and saved weights."""
    noted = report["saved"]["notes"] if report["saved"] else []
    loaded = [*report["loaded"]["notes"], *report["loaded"]["problems"]] if report["loaded"] else []
    return [*loaded, *noted]


def options(title: str, values: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Return a table of options with their values and origins."""
    rows = [(name, item["value"], item["origin"]) for name, item in values.items()]
    return grid(title, ("option", "value", "origin"), rows)


def parameters(table: Mapping[str, Any]) -> RenderableType:
    """Return the parameter table."""
    rows: list[tuple[Any, ...]] = []
    for row in table["rows"]:
        shapes = ", ".join(_shape(name, shape, len(row["shapes"])) for name, shape in row["shapes"].items())
        total = "tied" if row["tied_to"] else f"{row['total']:,}"
        rows.append((row["module"], shapes, row["modules"], total, f"{row['trainable']:,}"))
    rows.append((Text("total", "bold"), "", "", Text(f"{table['total']:,}", "bold"), f"{table['trainable']:,}"))
    drawn = grid(
        "Parameters",
        ("module", "shape", "modules", "parameters", "trainable"),
        rows,
        right=(2, 3, 4),
        dense=True,
        drop=(4, 2, 1),
    )
    ties = "".join(f", {row['module']} tied to {row['tied_to']}" for row in table["rows"] if row["tied_to"])
    return Group(drawn, Text(f"{bytes_of(table['bytes'])} of weights{ties}\n"))


def _shape(name: str, shape: Sequence[int], names: int) -> str:
    text = sizes(shape)
    return text if names == 1 else f"{name} {text}"


def memory(step: Mapping[str, Any]) -> RenderableType:
    """Return a summary of the memory of a training step."""
    return pairs(
        f"Peak memory of a training step: {', '.join(step['setup'].values())} (details: estimate)",
        {
            **{kind: bytes_of(size) for kind, size in step["parts"].items()},
            "peak": f"{bytes_of(step['peak'])}, in {step['phase']}",
        },
    )


def compatibility(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return a table of the tools that can load the directory, with the requirements or the obstacle of each."""
    drawn = [(row["name"], Text("yes", "green") if row["loads"] else Text("no", "yellow"), row["how"]) for row in rows]
    return Group(grid("Loads in", ("", "", "notes"), drawn), Text())


def _loaded(report: Mapping[str, Any]) -> RenderableType:
    rows = [("missing", item["name"], item.get("hint") or "") for item in report["missing"]]
    rows += [("unexpected", name, "") for name in report["unexpected"]]
    rows += [
        ("other shape", item["name"], f"{sizes(item['stored'])} in the checkpoint, {sizes(item['model'])} in the model")
        for item in report["other_shape"]
    ]
    count = len(report["verified"] or ())
    verified = f", {count} {'files' if count > 1 else 'file'} verified" if count else ""
    head = Text(f"Loaded {report['loaded']} tensors from {report['path']}{verified}\n")
    return Group(head, grid("Not loaded", ("", "name", ""), rows, max_rows=MAX_NOTES)) if rows else head


def saved(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of saved weights, one line."""
    files = shortened(", ".join(report["files"]), MAX_CELL_CHARACTERS)
    return Text(f"Saved {report['tensors']} tensors, {bytes_of(report['bytes'])}, to {report['path']}: {files}\n")


def sizes(shape: Sequence[int]) -> str:
    """Format a shape as `16 x 8`."""
    return " x ".join(map(str, shape)) or "scalar"
