"""Views of `checkpoint inspect` and `checkpoint convert`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from forgather_core.model.kinds import kind_of
from forgather_core.pages.units import bytes_of

from ..render import Text, notes
from ..tables import grid, pairs
from .construct import saved, sizes


def inspection(report: Mapping[str, Any], *, show_all: bool) -> RenderableType:
    """Return the view of a checkpoint; `show_all` lists each tensor instead of one row for all layers."""
    head = {
        "entry": report["entry"],
        "format": report["format"],
        "size": f"{bytes_of(report['bytes'])}, {report['elements']:,} elements",
        "dtypes": ", ".join(f"{name} {count:,}" for name, count in report["dtypes"].items()),
        **({"weights": f"quantized ({report['quantized']})"} if report["quantized"] else {}),
        "generation": report["generation"],
        **{name.replace("_", " "): value for name, value in report["metadata"].items() if name not in _SHOWN},
    }
    files = [
        (file["name"], bytes_of(file["bytes"]), f"{file['tensors']:,}", _checksum(file)) for file in report["files"]
    ]
    return Group(
        pairs(report["path"], head),
        grid("Files", ("file", "size", "tensors", "checksum"), files, right=(1, 2), max_rows=100),
        _tensors(report["tensors"], show_all=show_all),
        notes(report["notes"]),
    )


_SHOWN = {"format", "total_size", "total_parameters", "dtype"}  # already part of the summary


def _checksum(file: Mapping[str, Any]) -> str:
    if file["checksum"] is None:
        return "not recorded"
    algorithm, _, digest = str(file["checksum"]).partition(":")
    return f"{algorithm} {digest[:12]}" + (", verified" if file["verified"] else "")


def _tensors(tensors: Sequence[Mapping[str, Any]], *, show_all: bool) -> RenderableType:
    kinds: dict[tuple[str, str, str], list[int]] = {}
    for item in tensors:
        name = item["name"] if show_all else kind_of(item["name"])
        kinds.setdefault((name, sizes(item["shape"]), item["dtype"]), []).append(item["bytes"])
    rows = [(*kind, len(sizes), bytes_of(sum(sizes))) for kind, sizes in kinds.items()]
    return Group(grid("Tensors", ("tensor", "shape", "dtype", "count", "size"), rows, right=(3, 4), dense=True), Text())


def conversion(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of a converted checkpoint."""
    return Group(saved(report), notes(report["notes"]))
