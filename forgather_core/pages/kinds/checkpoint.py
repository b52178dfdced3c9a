"""The pages of checkpoints: inspected, loaded and saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bars import bars
from ..content import Content, Figure
from ..drawing import chart, colour
from ..html import Html, card, columns, facts
from ..tables import table
from ..units import bytes_of, count_of, shape_of, share_of

_SHOWN = {"format", "total_size", "total_parameters", "dtype"}  # metadata that the headline figures contain


def inspection(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of an inspected checkpoint."""
    dtypes = report["dtypes"]
    tensors = report["tensors"]
    files = [
        (file["name"], bytes_of(file["bytes"]), f"{file['tensors']:,}", _checksum(file)) for file in report["files"]
    ]
    known = {
        "entry": report["entry"],
        "format": report["format"],
        "quantized": report["quantized"],
        "generation": report["generation"],
        **{name: value for name, value in report["metadata"].items() if name not in _SHOWN},
    }
    rows = [(one["name"], shape_of(one["shape"]), one["dtype"], bytes_of(one["bytes"]), one["file"]) for one in tensors]
    return Content(
        kind="Checkpoint",
        title=report["path"],
        figures=[
            Figure("Size", bytes_of(report["bytes"]), f"{report['bytes']:,} bytes"),
            Figure("Elements", count_of(report["elements"]), f"{report['elements']:,}"),
            Figure("Tensors", f"{len(tensors):,}", f"{len(files):,} files" if len(files) != 1 else "1 file"),
            Figure("Dtypes", ", ".join(list(dtypes)[:3]) or "-"),
        ],
        blocks=[
            columns(_groups(report), card("Contents", facts(known))),
            card("Files", table(("file", "size", "tensors", "checksum"), files, right=(1, 2), code=(0,), name="files")),
            card(
                "Tensors",
                table(("tensor", "shape", "dtype", "size", "file"), rows, right=(3,), code=(0,), name="tensors"),
            ),
        ],
        notes=report["notes"],
    )


def _groups(report: Mapping[str, Any]) -> Html | None:
    """Return a chart of the sizes by dtype, or by the first names of tensors if there is only one dtype."""
    sizes: dict[str, int] = {}
    for one in report["tensors"]:
        key = one["dtype"] if len(report["dtypes"]) > 1 else ".".join(str(one["name"]).split(".")[:2])
        sizes[key] = sizes.get(key, 0) + one["bytes"]
    if not sizes:
        return None
    largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:8])
    texts = [f"{bytes_of(size)}  ·  {share_of(size, report['bytes'])}" for size in largest.values()]
    title = "Size by dtype" if len(report["dtypes"]) > 1 else "Largest groups of tensors"
    return chart(title, bars(title, largest, texts, [colour(1)] * len(largest)))


def _checksum(file: Mapping[str, Any]) -> str:
    if file["checksum"] is None:
        return "not recorded"
    algorithm, _, digest = str(file["checksum"]).partition(":")
    return f"{algorithm} {digest[:12]}" + (", verified" if file["verified"] else "")


def load(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of a load."""
    problems = report["problems"]
    unmatched = len(report["missing"]) + len(report["unexpected"]) + len(report["other_shape"])
    return Content(
        kind="Loaded weights",
        title=report["path"],
        figures=[
            Figure("Tensors loaded", f"{report['loaded']:,}"),
            Figure("Not loaded", f"{unmatched:,}", tone="bad" if unmatched else ""),
            _non_finite(report["non_finite"]),
            Figure("Files verified", "-" if report["verified"] is None else f"{len(report['verified']):,}"),
        ],
        blocks=[loaded_card(report)] if unmatched else [],
        notes=[*report["notes"], *problems],
    )


def _non_finite(names: list[str] | None) -> Figure:
    if names is None:
        return Figure("With NaN or Inf", "-", "not checked")
    return Figure("With NaN or Inf", f"{len(names):,}", tone="bad" if names else "")


def loaded_card(report: Mapping[str, Any]) -> Html:
    """Return a card about loaded weights, with the tensors that were not loaded."""
    rows = [("missing", item["name"], item.get("hint") or "") for item in report["missing"]]
    rows += [("unexpected", name, "") for name in report["unexpected"]]
    rows += [
        (
            "other shape",
            item["name"],
            f"{shape_of(item['stored'])} in the checkpoint, {shape_of(item['model'])} in the model",
        )
        for item in report["other_shape"]
    ]
    count = len(report["verified"] or ())
    verified = f"; {count} {'file' if count == 1 else 'files'} verified" if count else ""
    lead = f"{report['loaded']:,} tensors from {report['path']}{verified}"
    drawn = [table(("problem", "tensor", "details"), rows, code=(1,), name="not loaded")] if rows else []
    return card("Loaded weights", *drawn, lead=lead)


def save(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of a save."""
    return Content(
        kind="Saved weights",
        title=report["path"],
        figures=[
            Figure("Size", bytes_of(report["bytes"]), f"{report['bytes']:,} bytes"),
            Figure("Tensors", f"{report['tensors']:,}"),
            Figure("Files", f"{len(report['files']):,}"),
        ],
        blocks=[saved_card(report)],
        notes=report["notes"],
    )


def saved_card(report: Mapping[str, Any]) -> Html:
    """Return a card about saved weights, with their files."""
    rows = [(name, report["checksums"].get(name, "")) for name in report["files"]]
    lead = f"{report['tensors']:,} tensors, {bytes_of(report['bytes'])}, in {report['path']}"
    return card("Saved weights", table(("file", "checksum"), rows, code=(0, 1), name="files"), lead=lead)
