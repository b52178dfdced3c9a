"""Reports on datasets and tokenizers as rich drawings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType

from forgather_core.filesystem.printable import printable

from .render import Text, console, text_of
from .tables import grid, pairs

EXAMPLE_LINES = 7  # and the last one


def datasets(report: Mapping[str, Any]) -> RenderableType:
    """What `dataset ls` tells."""
    rows = report["configurations"]
    if rows and "summary" in rows[0]:
        drawn = [(row["project"], row["config"], row["summary"]) for row in rows]
        return grid("Built-in dataset projects", ("project", "config", "documents"), drawn)
    known = [_configuration(row) for row in rows if "error" not in row]
    wrong = [Text(row["error"], "red") for row in rows if "error" in row]  # below the table, where no column folds it
    columns = ("config", "source", "split", "column", "options")
    table = [grid(f"Dataset project {report['project']}", columns, known)] if known else []
    return Group(*table, *wrong)


def _configuration(row: Mapping[str, Any]) -> tuple[str, ...]:
    source = ": ".join([row["source"], *([", ".join(row["files"])] if "files" in row else [])])
    column = f"{row['messages']} (chats)" if "messages" in row else row.get("text_column", "text")
    told = ("project", "config", "file", "source", "files", "split", "text_column", "messages")
    options = ", ".join(f"{name}: {text_of(value)}" for name, value in row.items() if name not in told)
    return row["config"], source, row.get("split", ""), column, options


def dataset(report: Mapping[str, Any]) -> RenderableType:
    """What `dataset show` tells."""
    counted = report["counted"]
    source, per_token = report["source"] or {}, counted["characters_per_token"]
    lengths = f"{counted['shortest']:,} to {counted['longest']:,}, median {counted['median']:,}"
    head = {
        **{name.replace("_", " "): value for name, value in source.items()},
        "documents": f"{counted['documents']:,}" + ("" if counted["all"] else " were read; there are more (--limit)"),
        "characters": f"{counted['characters']:,}",
        "tokens": f"{counted['tokens']:,} of {report['tokenizer']['name']}, {per_token} characters each",
        "tokens a document": lengths,
    }
    columns = [(column["name"], column["type"]) for column in report["columns"]]
    drawn: list[RenderableType] = [pairs(report["dataset"], head), grid("Columns", ("column", "type"), columns)]
    for number, example in enumerate(report["examples"], start=1):
        drawn += [Text(f"\nDocument {number}, {example['tokens']:,} tokens", "bold"), *_excerpt(example["text"])]
    return Group(*drawn)


def _excerpt(text: str) -> Iterator[Text]:
    """The first lines and the last one, each cut at the width, and a word on what is left out."""
    lines = text.splitlines()
    left_out = len(lines) - EXAMPLE_LINES - 1
    for number, line in enumerate(lines):
        if number < EXAMPLE_LINES or left_out < 1 or number == len(lines) - 1:
            yield Text("  " + _fitting(printable(line.expandtabs(4))))
        elif number == EXAMPLE_LINES:
            yield Text(f"  … {left_out:,} more line{'s' * (left_out > 1)} …", "dim")


def _fitting(line: str) -> str:
    width = console().width - 2
    return line if cell_len(line) <= width else set_cell_size(line, width - 2) + " …"


def tokenizer(report: Mapping[str, Any]) -> RenderableType:
    """What `tokenizer train` made."""
    part = "" if report["measured_on"] == report["documents"] else f", of the first {report['measured_on']:,} documents"
    head = {
        "directory": report["directory"],
        "entries": f"{report['entries']:,}",
        "special tokens": ", ".join(f"{token} {number}" for token, number in report["special_tokens"].items()),
        "longest text": f"{report['model_max_length']:,} tokens",
        "trained on": f"{report['dataset']}: {report['documents']:,} documents, {report['characters']:,} characters",
        "bytes a token": f"{report['bytes_per_token']} (without merges 1){part}",
        "time": f"{report['seconds']} s",
    }
    return Group(
        pairs("Tokenizer", head),
        Text(f"Use it with: forgather -t llama/4M model --tokenizer {report['directory']} construct"),
    )
