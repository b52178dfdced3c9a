"""Parameters and memory of a model, as charts and tables that several pages share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bars import bars, stacked
from ..drawing import chart, colour
from ..html import Html, card, joined, swatch, tag
from ..tables import table
from ..units import bytes_of, count_of, integer_of, shape_of, share_of

_KINDS = (
    ("normalization", ("norm",)),
    ("output head", ("lm_head",)),
    ("embeddings", ("embed", "wte", "wpe")),
    ("attention", ("attn", "attention")),
    ("feed-forward", ("mlp", "feed_forward", "ffn", "experts", "moe")),
)
_OTHER = "other"

# One colour for each category of memory, the same on all pages.
_MEMORY = ("weights", "activations", "gradients", "optimizer", "logits and loss", "cache", "measured", _OTHER)


def by_kind(table_of: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of parameters of each kind of module, largest first. Tied parameters count once."""
    found: dict[str, int] = {}
    for row in table_of["rows"]:
        if not row["tied_to"]:
            kind = _kind(row["module"])
            found[kind] = found.get(kind, 0) + row["total"]
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _kind(module: str) -> str:
    parts = module.lower().split(".")
    for part in reversed(parts):  # q_norm of self_attn is a normalization
        for kind, words in _KINDS:
            if any(word in part for word in words):
                return kind
    return _OTHER


def parameter_chart(table_of: Mapping[str, Any]) -> Html:
    """Return a chart of the parameters by kind of module."""
    kinds, total = by_kind(table_of), table_of["total"]
    texts = [f"{count_of(count)}  ·  {share_of(count, total)}" for count in kinds.values()]
    svg = bars("Parameters by kind of module", kinds, texts, [colour(1)] * len(kinds))
    return chart("Parameters by kind of module", svg, lead=f"{total:,} parameters in total")


def parameter_table(table_of: Mapping[str, Any]) -> Html:
    """Return the table of all modules with their parameters."""
    rows: list[tuple[object, ...]] = []
    for row in table_of["rows"]:
        shapes = ", ".join(
            shape_of(shape) if len(row["shapes"]) == 1 else f"{name} {shape_of(shape)}"
            for name, shape in row["shapes"].items()
        )
        total = f"tied to {row['tied_to']}" if row["tied_to"] else integer_of(row["total"])
        share = "" if row["tied_to"] else share_of(row["total"], table_of["total"])
        rows.append((row["module"], shapes, integer_of(row["modules"]), total, share, integer_of(row["trainable"])))
    rows.append(("total", "", "", integer_of(table_of["total"]), "", integer_of(table_of["trainable"])))
    columns = ("module", "shape", "modules", "parameters", "share", "trainable")
    drawn = table(columns, rows, right=(2, 3, 4, 5), code=(0,), total=True, name="parameters")
    return card("Parameters", drawn, lead=f"{bytes_of(table_of['bytes'])} of weights")


def memory_chart(
    title: str,
    lead: str,
    rows: Mapping[str, Mapping[str, float]],
    measured: Mapping[str, float] | None = None,
) -> Html:
    """Return a chart of memory by category, with a table that is its legend.

    Args:
        title: The title of the card.
        lead: The assumptions.
        rows: Bytes by category, for each bar by its label.
        measured: The parts of another bar, without a column in the table: `measured` and, on the CPU, `weights`.
    """
    rows = {label: _merged(parts) for label, parts in rows.items()}
    categories = sorted({part for parts in rows.values() for part in parts}, key=_MEMORY.index)
    colours = {part: number for number, part in enumerate(_MEMORY, start=1)}
    ordered = {label: {part: parts[part] for part in categories if part in parts} for label, parts in rows.items()}
    bars_of = {label: _drawable(parts) for label, parts in ordered.items()}
    measured_bar = {} if measured is None else {"measured": measured}
    svg = stacked(title, bars_of | measured_bar, colours, bytes_of)
    totals = {label: sum(parts.values()) for label, parts in rows.items()}
    cells: list[tuple[object, ...]] = [
        (
            tag("span", swatch(colours[part]), part, class_="fg-part"),
            *(_size(parts.get(part), totals[label]) for label, parts in ordered.items()),
        )
        for part in categories
    ]
    cells.append(("total", *(_size(total, total) for total in totals.values())))
    columns = ("category", *rows)
    legend = table(columns, cells, right=range(1, len(columns)), total=True, name=title)
    return chart(title, svg, legend, lead=lead)


def _merged(parts: Mapping[str, float]) -> dict[str, float]:
    """Return the categories that have a colour, with all others as one: inputs and buffers are small."""
    merged: dict[str, float] = {}
    for part, size in parts.items():
        name = part if part in _MEMORY else _OTHER
        merged[name] = merged.get(name, 0) + size
    return merged


def _drawable(parts: Mapping[str, float]) -> dict[str, float]:
    return {part: size for part, size in parts.items() if size > 0}


def _size(size: float | None, total: float) -> Html:
    if size is None:
        return joined(["-", tag("span", class_="fg-share")])
    return joined([bytes_of(size), tag("span", share_of(size, total), class_="fg-share")])
