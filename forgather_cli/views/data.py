"""Views of `dataset` and `tokenizer train`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType

from forgather_core.filesystem.printable import printable
from forgather_core.pages.units import text_of, with_noun

from ..render import Text, console
from ..tables import grid, pairs

EXAMPLE_LINES = 7  # plus the last line


def datasets(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of a list of dataset projects, or of the configurations of one project."""
    rows = report["configurations"]
    if rows and "summary" in rows[0]:
        drawn = [(row["project"], row["config"] or "-", row["summary"]) for row in rows]
        title = "Dataset project" if rows[0]["config"] is None else "Built-in dataset projects"
        return grid(title, ("project", "config", "summary"), drawn)
    known = [_configuration(row) for row in rows if "error" not in row]
    errors = [Text(row["error"], "red") for row in rows if "error" in row]  # not in a cell, which would fold the text
    columns = ("config", "source", "split", "column", "options")
    table = [grid(f"Dataset project {report['project']}", columns, known)] if known else []
    return Group(*table, *errors)


def _configuration(row: Mapping[str, Any]) -> tuple[str, ...]:
    source = ": ".join([row["source"], *([", ".join(row["files"])] if "files" in row else [])])
    column = f"{row['messages']} (chats)" if "messages" in row else row.get("text_column", "text")
    shown = ("project", "config", "file", "source", "files", "split", "text_column", "messages")
    options = ", ".join(f"{name}: {text_of(value)}" for name, value in row.items() if name not in shown)
    return row["config"], source, row.get("split", ""), column, options


def dataset(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of a dataset."""
    counted = report["counted"]
    source, per_token = report["source"] or {}, counted["characters_per_token"]
    lengths = f"{counted['shortest']:,} to {counted['longest']:,}, median {counted['median']:,}"
    head = {
        **{name.replace("_", " "): value for name, value in source.items()},
        "documents": f"{counted['documents']:,}" + ("" if counted["all"] else " were read; there are more (--limit)"),
        "characters": f"{counted['characters']:,}",
        "tokens": f"{counted['tokens']:,} of {report['tokenizer']['name']}, {per_token} characters per token",
        "tokens per document": lengths,
    }
    columns = [(column["name"], column["type"]) for column in report["columns"]]
    drawn: list[RenderableType] = [pairs(report["dataset"], head), grid("Columns", ("column", "type"), columns)]
    for number, example in enumerate(report["examples"], start=1):
        drawn += [
            Text(f"\nDocument {number}, {with_noun(example['tokens'], 'token')}", "bold"),
            *_excerpt(example["text"]),
        ]
    return Group(*drawn)


def _excerpt(text: str) -> Iterator[Text]:
    """Yield the first lines and the last line, cut to the width, and the number of omitted lines."""
    lines = text.splitlines()
    left_out = len(lines) - EXAMPLE_LINES - 1
    for number, line in enumerate(lines):
        if number < EXAMPLE_LINES or left_out < 1 or number == len(lines) - 1:
            yield Text("  " + _truncate_line(printable(line.expandtabs(4))))
        elif number == EXAMPLE_LINES:
            yield Text(f"  … {left_out:,} more line{'s' * (left_out > 1)} …", "dim")


def _truncate_line(line: str) -> str:
    width = console().width - 2
    return line if cell_len(line) <= width else set_cell_size(line, width - 2) + " …"


def tokenizer(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of a trained tokenizer."""
    documents = with_noun(report["documents"], "document")
    part = "" if report["measured_on"] == report["documents"] else f", of the first {report['measured_on']:,} documents"
    head = {
        "directory": report["directory"],
        "vocab size": f"{report['vocab_size']:,}",
        "special tokens": ", ".join(f"{token} {number}" for token, number in report["special_tokens"].items()),
        "model max length": f"{report['model_max_length']:,} tokens",
        "trained on": f"{report['dataset']}: {documents}, {report['characters']:,} characters",
        "bytes per token": f"{report['bytes_per_token']} (1 without merges){part}",
        "time": f"{report['seconds']} s",
    }
    return Group(
        pairs("Tokenizer", head),
        Text(f"Use it with: forgather -t llama/4M model --tokenizer {report['directory']} construct"),
    )
