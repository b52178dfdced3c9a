"""Collect the licences of the source code in a model directory: Forgather's and the plugin's."""

from __future__ import annotations

import importlib.metadata

from ..definitions.definition import ModelDefinition
from ..definitions.hookspecs import ENTRY_POINT_GROUP

OWN_DISTRIBUTION = "forgather"


def licence_files(definition: ModelDefinition) -> dict[str, str]:
    """Return licence texts by file name: `LICENSE`, and `LICENSE.NAME` for each distribution of the definition."""
    top_level = definition.model.partition(".")[0].partition(":")[0]
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    plugins = {point.dist.name for point in points if point.dist and point.module.partition(".")[0] == top_level}
    # Without an entry point, the distribution is found by scanning all installed ones.
    others = plugins or importlib.metadata.packages_distributions().get(top_level, [])
    found = {"LICENSE": _licence_of(OWN_DISTRIBUTION) or ""}
    for name in sorted(set(others) - {OWN_DISTRIBUTION}):
        if (text := _licence_of(name)) is not None:
            found[f"LICENSE.{name}"] = text
    return {name: text for name, text in found.items() if text}


def _licence_of(distribution: str) -> str | None:
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
            try:
                return file.read_text(encoding="utf-8-sig")
            except OSError:
                continue
    return None
