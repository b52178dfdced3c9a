"""The view of `plugin new`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType

from ..render import Text
from ..tables import grid


def package(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of a new plugin: its files and the next commands."""
    rows = [(file["path"], file["about"] or "") for file in report["files"]]
    commands = Text("\n".join(f"  {command}" for command in report["next"]))
    written = grid(f"Wrote {report['directory']}", ("file", "purpose"), rows)
    return Group(written, Text("\nNext", "bold"), commands)
