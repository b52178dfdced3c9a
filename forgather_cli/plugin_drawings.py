"""Reports on new plugins as rich drawings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType

from .render import Text
from .tables import grid


def package(report: Mapping[str, Any]) -> RenderableType:
    """What `plugin new` wrote, and what can be done with it."""
    rows = [(file["path"], file["about"] or "") for file in report["files"]]
    commands = Text("\n".join(f"  {command}" for command in report["next"]))
    written = grid(f"Wrote {report['directory']}", ("file", "what it is for"), rows)
    return Group(written, Text("\nNext", "bold"), commands)
