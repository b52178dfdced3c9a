"""The page of `compare`: models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..bars import grouped
from ..content import Content, Figure
from ..drawing import SERIES, chart
from ..html import Html, brief, card, columns, label, stack, swatch, tag
from ..tables import table
from ..units import bytes_of, count_of, integer_of, shape_of, text_of

_COUNTS = {"total": "total", "non_embedding": "non-embedding", "embedding": "embedding", "active": "active"}
_SIZES = (
    ("training, peak", "training", "peak"),
    ("weights", "training", "weights"),
    ("gradients, at most", "training", "gradients"),
    ("optimizer state", "training", "optimizer_state"),
    ("activations after forward", "training", "activations"),
    ("logits and loss, at most", "training", "logits"),
    ("generation, peak", "generation", "peak"),
    ("cache per token and row", "generation", "cache_per_token"),
)
_DRAWN = {
    "training": ("training", "peak"),
    "activations": ("training", "activations"),
    "optimizer state": ("training", "optimizer_state"),
    "gradients": ("training", "gradients"),
    "weights": ("training", "weights"),
    "logits and loss": ("training", "logits"),
    "generation": ("generation", "peak"),
}
_FLOPS = {"training": "training", "forward": "forward", "forward_attention": "attention, forward"}
_SETUP = ("batch", "precision", "optimizer", "attention")


def comparison(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of a comparison."""
    models = report["models"]
    setup = _setup(report["setups"])
    memory = [(name, *map(bytes_of, report[group][key])) for name, group, key in _SIZES]
    counts = [(label(name), *map(integer_of, values)) for name, values in report["totals"].items()]
    shapes = [
        (row["name"], *(_shape(*item) for item in zip(row["shapes"], row["layers"], strict=True)))
        for row in report["parameters"]
    ]
    flops = [(label(name), *map(count_of, values)) for name, values in report["flops"].items()]
    right = range(1, len(models) + 1)
    drawn = list(_unique(models))[:SERIES]
    return Content(
        kind="Comparison",
        title=" · ".join(models[:4]) + (f" and {len(models) - 4} more" if len(models) > 4 else ""),
        subtitle=setup,
        figures=_figures(report),
        blocks=[
            _legend(drawn),
            _charts(report, drawn, setup),
            _differences(report),
            card("Memory", table(("", *models), [*_setup_rows(report["setups"]), *memory], right=right), lead=setup),
            columns(
                card("Parameters", table(("", *models), counts, right=right)),
                card("FLOPs/token", table(("", *models), flops, right=right), lead="step: all tokens of a step"),
            ),
            _shapes(report, shapes),
        ],
        notes=report["notes"],
    )


def _unique(models: Sequence[str]) -> list[str]:
    """Return names that differ, since the same model may be compared with itself."""
    seen: dict[str, int] = {}
    names = []
    for model in models:
        seen[model] = seen.get(model, 0) + 1
        names.append(model if seen[model] == 1 else f"{model} ({seen[model]})")
    return names


def _figures(report: Mapping[str, Any]) -> list[Figure]:
    figures = [
        Figure(model, count_of(total), f"parameters; {bytes_of(peak)} to train")
        for model, total, peak in zip(
            report["models"], report["totals"]["total"], report["training"]["peak"], strict=True
        )
    ][:8]
    return [*figures, Figure("Options that differ", str(len(report["options"])))]


def _legend(models: Sequence[str]) -> Html:
    items = [tag("li", swatch(number), brief(model)) for number, model in enumerate(models, start=1)]
    return tag("ul", *items, class_="fg-legend", aria_label="Colours of the charts")


def _charts(report: Mapping[str, Any], models: Sequence[str], setup: str) -> Html:
    totals, flops = report["totals"], report["flops"]

    def drawn(title: str, rows: Mapping[str, Sequence[float]], text: Any, lead: str) -> Html:
        values = list(rows.values())
        series = {model: [row[number] for row in values] for number, model in enumerate(models)}
        return chart(title, grouped(title, list(rows), series, text), lead=lead)

    sizes = {name: report[group][key] for name, (group, key) in _DRAWN.items()}
    return columns(
        stack(
            drawn(
                "Parameters",
                {name: totals[key] for key, name in _COUNTS.items()},
                count_of,
                "Tied parameters count once",
            ),
            drawn("FLOPs/token", {name: flops[key] for key, name in _FLOPS.items()}, count_of, "A multiply-add is two"),
        ),
        drawn("Memory", sizes, bytes_of, f"Training and generation: at the peak; {setup}"),
    )


def _differences(report: Mapping[str, Any]) -> Html:
    rows = [(name, *map(text_of, values)) for name, values in report["options"].items()]
    if not rows:
        return card("Options that differ", lead="The models have the same options.")
    numbers = range(1, len(report["models"]) + 1)
    return card("Options that differ", table(("option", *report["models"]), rows, code=(0, *numbers), name="options"))


def _shapes(report: Mapping[str, Any], rows: Sequence[Sequence[object]]) -> Html:
    models = report["models"]
    only = [f"only {model} has {', '.join(names)}" for model, names in report["only"].items() if names]
    return card(
        "Shapes",
        table(("parameter", *models), rows, right=range(1, len(models) + 1), code=(0,), name="shapes"),
        lead="; ".join(only),
    )


def _shape(shape: Sequence[int] | None, layers: int) -> str:
    return shape_of(shape) + (f" ({layers})" if shape is not None and layers > 1 else "")


def _setup(setups: Sequence[Mapping[str, Any]]) -> str:
    """Return the setup that all models share."""
    shared = [name for name in _SETUP if len({str(setup[name]) for setup in setups}) == 1]
    return ", ".join(f"{name} {setups[0][name]}" if name == "batch" else str(setups[0][name]) for name in shared)


def _setup_rows(setups: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row for each part of the setup that differs between models."""
    rows = [(name, *(str(setup[name]) for setup in setups)) for name in _SETUP]
    return [row for row in rows if len({*row[1:]}) > 1]
