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


def read_record(directory: Path) -> dict[str, Any]:
    """Return the record of a model directory; empty if there is none.

    Raises:
        TrainingError: The record is damaged.
    """
    file = directory / RECORD
    if not file.is_file():
        return {}
    try:
        found = read_object(file)
    except ValueError as error:
        raise TrainingError(f"is damaged: {error}", file=file, hint="choose another --output-dir") from None
    for name in ("options", "plan", "setup", "data"):
        if not isinstance(found.get(name), dict):
            problem = f"is damaged: it has no object '{name}'"
            raise TrainingError(problem, file=file, hint="choose another --output-dir")
    return found
