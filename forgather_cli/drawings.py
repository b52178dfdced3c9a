"""The reports of the core as rich drawings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from forgather_core.filesystem.printable import shortened
from forgather_core.model.kinds import kind_of

from .render import LONGEST_CELL, MOST_NOTES, Text, bytes_of, link, notes
from .tables import grid, pairs


def construction(report: Mapping[str, Any]) -> RenderableType:
    """What `construct` made."""
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
        loaders(report["loaders"]),
    ]
    parts += [_loaded(report["loaded"])] if report["loaded"] else []
    parts += [_saved(report["saved"])] if report["saved"] else []
    return Group(*parts, notes([*report["notes"], *_of_weights(report)]))


def _of_weights(report: Mapping[str, Any]) -> list[str]:
    """What was noted of the weights that were loaded and saved."""
    saved = report["saved"]["notes"] if report["saved"] else []
    loaded = [*report["loaded"]["notes"], *report["loaded"]["problems"]] if report["loaded"] else []
    return [*loaded, *saved]


def options(title: str, values: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Options with their values and origins."""
    rows = [(name, item["value"], item["origin"]) for name, item in values.items()]
    return grid(title, ("option", "value", "from"), rows)


def parameters(table: Mapping[str, Any]) -> RenderableType:
    """The parameter table."""
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
    """The memory of a training step, in short."""
    return pairs(
        f"Memory of a training step at its peak: {', '.join(step['setup'].values())} (more: estimate)",
        {
            **{kind: bytes_of(size) for kind, size in step["parts"].items()},
            "peak": f"{bytes_of(step['peak'])}, in {step['phase']}",
        },
    )


def loaders(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Who loads the directory, and how, or why not."""
    drawn = [(row["name"], Text("yes", "green") if row["loads"] else Text("no", "yellow"), row["how"]) for row in rows]
    return Group(grid("Loads in", ("", "", "how, or why not"), drawn), Text())


def _loaded(report: Mapping[str, Any]) -> RenderableType:
    rows = [("missing", item["name"], item.get("hint") or "") for item in report["missing"]]
    rows += [("unexpected", name, "") for name in report["unexpected"]]
    rows += [
        ("other shape", item["name"], f"{sizes(item['stored'])} there, {sizes(item['model'])} here")
        for item in report["other_shape"]
    ]
    count = len(report["verified"] or ())
    verified = f", {count} {'files' if count > 1 else 'file'} verified" if count else ""
    head = Text(f"Loaded {report['loaded']} tensors from {report['path']}{verified}\n")
    return Group(head, grid("Not loaded", ("", "name", ""), rows, most=MOST_NOTES)) if rows else head


def _saved(report: Mapping[str, Any]) -> RenderableType:
    files = shortened(", ".join(report["files"]), LONGEST_CELL)
    return Text(f"Saved {report['tensors']} tensors, {bytes_of(report['bytes'])}, to {report['path']}: {files}\n")


def checkpoint(report: Mapping[str, Any], *, every: bool) -> RenderableType:
    """What `checkpoint inspect` tells."""
    head = {
        "entry": report["entry"],
        "format": report["format"],
        "size": f"{bytes_of(report['bytes'])}, {report['numbers']:,} numbers",
        "dtypes": ", ".join(f"{name} {count:,}" for name, count in report["dtypes"].items()),
        **({"weights": f"quantized ({report['quantized']})"} if report["quantized"] else {}),
        "generation": report["generation"],
        **{name.replace("_", " "): value for name, value in report["metadata"].items() if name not in _TOLD},
    }
    files = [
        (file["name"], bytes_of(file["bytes"]), f"{file['tensors']:,}", _checksum(file)) for file in report["files"]
    ]
    return Group(
        pairs(report["path"], head),
        grid("Files", ("file", "size", "tensors", "checksum"), files, right=(1, 2), most=100),
        _tensors(report["tensors"], every=every),
        notes(report["notes"]),
    )


_TOLD = {"format", "total_size", "total_parameters", "dtype"}  # the head has it already, from the headers


def _checksum(file: Mapping[str, Any]) -> str:
    if file["checksum"] is None:
        return "not recorded"
    algorithm, _, digest = str(file["checksum"]).partition(":")
    return f"{algorithm} {digest[:12]}" + (", verified" if file["verified"] else "")


def _tensors(tensors: Sequence[Mapping[str, Any]], *, every: bool) -> RenderableType:
    kinds: dict[tuple[str, str, str], list[int]] = {}
    for item in tensors:
        name = item["name"] if every else kind_of(item["name"])
        kinds.setdefault((name, sizes(item["shape"]), item["dtype"]), []).append(item["bytes"])
    rows = [(*kind, len(sizes), bytes_of(sum(sizes))) for kind, sizes in kinds.items()]
    return Group(grid("Tensors", ("tensor", "shape", "dtype", "times", "size"), rows, right=(3, 4), dense=True), Text())


def sizes(shape: Sequence[int]) -> str:
    """A shape, `16 x 8`."""
    return " x ".join(map(str, shape)) or "scalar"


def conversion(report: Mapping[str, Any]) -> RenderableType:
    """What `checkpoint convert` made."""
    return Group(_saved(report), notes(report["notes"]))


def settings(report: Mapping[str, Any]) -> RenderableType:
    """What `show` tells."""
    head = {
        "configuration": report["configuration"],
        "directory": report["directory"],
        "source": report["source"],
        "parameters": f"{report['expected_parameters']:,}" if report["expected_parameters"] else None,
    }
    parts = [
        pairs(report["model_name"], head),
        options(f"Options of {report['definition']}", report["options"]),
        options("Shared options", report["settings"]),
    ]
    return Group(*parts, *([_initial_weights(report["initial_weights"])] if "initial_weights" in report else []))


def _initial_weights(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The rules of the table, numbered, and the weights that each of them fills."""
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
        grid("Initial weights: the first pattern in a weight's name wins", ("", "pattern", "rule"), numbered),
        grid("", ("", "weight", "shape", "times", "std"), drawn, right=(3, 4), dense=True),
    )


def models(report: Mapping[str, Any]) -> RenderableType:
    """What `ls` tells."""
    parts: list[RenderableType] = []
    for definition in report["definitions"]:
        title = f"{definition['name']}: {definition['summary']}"
        parts += [_presets(title, definition["presets"], definition["default_preset"]), Text()]
    if report["configurations"]:
        parts += [_presets("Configurations of this project", report["configurations"], None), Text()]
    if report["broken"]:
        parts.append(notes([f"broken plugins: {', '.join(report['broken'])} ('forgather plugins' tells why)"]))
    return Group(*parts)


def _presets(title: str, presets: Sequence[Mapping[str, Any]], default: str | None) -> RenderableType:
    columns = ("-t", "parameters", "layers", "hidden", "vocab", "source")
    rows, wrong = [], []
    for row in presets:
        name = row["name"] + (" (default)" if default and row["name"].endswith(f"/{default}") else "")
        if "error" in row:
            wrong.append(Text(f"{name}: {row['error']}", "red"))  # below the table, where no column folds it
            continue
        numbers = [
            f"{row[k]:,}" if row[k] is not None else ""
            for k in ("parameters", "num_hidden_layers", "hidden_size", "vocab_size")
        ]
        extends = f"extends {row['extends']}" if row["extends"] else ""
        rows.append((name, *numbers, link(row["source"]) if row["source"] else extends))
    return Group(grid(title, columns, rows, right=(1, 2, 3, 4)), *wrong)


def plugins(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What `plugins` tells."""
    columns = ("name", "version", "distribution", "state", "file")
    drawn = [
        (r["name"], r["version"], r["distribution"], _state(r["state"]), r["file"] or r["entry_point"]) for r in rows
    ]
    errors = [Text(f"{row['name']}: {row['error']}", "red") for row in rows if row["error"]]
    slow = [f"{row['name']}: {row['slow']}" for row in rows if row["slow"]]
    return Group(grid("Plugins", columns, drawn), *errors, notes(slow))


def _state(state: str) -> Text:
    return Text(state, {"ok": "green", "broken": "bold red"}.get(state, "yellow"))
