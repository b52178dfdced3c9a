"""`train.json`: options, versions and losses of a training run, in its model directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..filesystem.disk import replace_file
from ..filesystem.printable import to_json
from ..filesystem.strict_json import read_object

RECORD = "train.json"


def write_record(directory: Path, report: Mapping[str, Any]) -> None:
    """Replace the record of a model directory."""
    replace_file(directory / RECORD, to_json(report).encode())


def read_record(directory: Path) -> dict[str, Any]:
    """Return the record of a model directory; empty if there is none."""
    file = directory / RECORD
    return read_object(file) if file.is_file() else {}
