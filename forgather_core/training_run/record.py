"""`train.json`: options, versions and losses of a training run, in its model directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..filesystem.disk import replace_file
from ..filesystem.printable import to_json
from ..filesystem.strict_json import read_object

RECORD = "train.json"


def write_record(directory: Path, report: Mapping[str, Any]) -> None:
    """Replace the record of a model directory."""
    replace_file(directory / RECORD, to_json(report).encode())


def read_record(directory: Path, *, hint: str = "choose another --output-dir") -> dict[str, Any]:
    """Return the record of a model directory; empty if there is none.

    Args:
        directory: The model directory.
        hint: What to do if the record is damaged.

    Raises:
        TrainingError: The record is damaged.
    """
    file = directory / RECORD
    if not file.is_file():
        return {}
    try:
        record = read_object(file)
    except ValueError as error:
        raise TrainingError(f"is damaged: {error}", file=file, hint=hint) from None
    for name in ("options", "plan", "setup", "data"):
        if not isinstance(record.get(name), dict):
            problem = f"is damaged: it has no object '{name}'"
            raise TrainingError(problem, file=file, hint=hint)
    return record
