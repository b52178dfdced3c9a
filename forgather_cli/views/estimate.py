"""Views of `estimate` and `compare`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from forgather_core.pages.units import bytes_of, count_of, text_of

from ..render import Text, notes
from ..tables import grid, pairs
from .construct import parameters, sizes

_BAR_WIDTH = 30  # characters of the longest bar


def estimate(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of an estimate: parameters, memory of training and generation, FLOPs, devices."""
    setup = {name.replace("_", " "): text_of(value) for name, value in report["setup"].items()}
    return Group(
        pairs(f"Estimate of {report['model_name']}", setup),
        parameters(report["parameters"]),
        _counts(report["parameters"]),
        _training(report["training"]),
        _generation(report["generation"]),
        _flops(report["flops"]),
        *([_communication(report["parallel"])] if "parallel" in report else []),
        _devices(report["devices"], report["setup"], report.get("parallel")),
        notes(report["notes"]),
    )


def _counts(table: Mapping[str, Any]) -> RenderableType:
    sizes = ", ".join(f"{bytes_of(size)} in {name}" for name, size in table["bytes_in"].items())
    return pairs(
        "Counts",
        {
            "embedding": f"{table['embedding']:,} (input embedding and head; counted once if tied)",
            "non-embedding": f"{table['non_embedding']:,}",
            "active": f"{table['active']:,} (used for each token)",
            "size": sizes,
        },
    )


def _training(training: Mapping[str, Any]) -> RenderableType:
    title = f"Peak memory of a training step, in {training['phase']}"
    return Group(
        grid(title, ("", "size", ""), _bars(training["parts"], training["peak"]), right=(1,)),
        Text(
            f"gradients: at most {bytes_of(training['gradients'])}; "
            f"activations after forward: {bytes_of(training['activations'])}\n"
        ),
    )


def _bars(parts: Mapping[str, int], total: int) -> list[tuple[Any, ...]]:
    largest, block = max(parts.values(), default=1), "█" if sys.stdout.isatty() else "#"
    rows: list[tuple[Any, ...]] = [
        (kind, bytes_of(size), Text(block * round(_BAR_WIDTH * size / largest), "cyan")) for kind, size in parts.items()
    ]
    return [*rows, (Text("peak", "bold"), Text(bytes_of(total), "bold"), "")]


def _generation(generation: Mapping[str, Any]) -> RenderableType:
    rows, context_length = generation["rows"], generation["context_length"]
    return pairs(
        f"Memory of generation, {rows} x {context_length:,} tokens",
        {
            "weights": bytes_of(generation["weights"]),
            "cache": f"{bytes_of(generation['cache'])}, {bytes_of(generation['cache_per_token'])} per token and row",
            "peak": f"{bytes_of(generation['peak'])}, in {generation['phase']}",
        },
    )


def _flops(flops: Mapping[str, float]) -> RenderableType:
    forward, weights, attention = (flops[name] for name in ("forward", "forward_weights", "forward_attention"))
    return pairs(
        "FLOPs/token (a multiply-add is two)",
        {
            "forward": f"{count_of(forward)}: weights {count_of(weights)}, attention {count_of(attention)}",
            "training": f"{count_of(flops['training'])} (3 x forward); computed {count_of(flops['computed'])}",
        },
    )


def _communication(parallel: Mapping[str, Any]) -> RenderableType:
    rows: list[tuple[Any, ...]] = [
        (row["axis"], row["kind"], row["phase"], f"{row['calls']:,}", bytes_of(row["payload"]), bytes_of(row["bytes"]))
        for row in parallel["collectives"]
    ]
    rows.append((Text("total", "bold"), "", "", "", "", Text(bytes_of(parallel["bytes"]), "bold")))
    title = f"Communication of each device in a step, {parallel['mesh']}"
    heads = ("axis", "collective", "phase", "calls", "payload", "on the wire")
    return Group(grid(title, heads, rows, right=(3, 4, 5), dense=True), Text())


def _wire_times(devices: Sequence[Mapping[str, Any]]) -> RenderableType:
    axes = next((list(device["wire_seconds"]) for device in devices if device["wire_seconds"]), [])
    if not axes:
        return Text()
    rows = [
        (
            device["name"],
            _seconds(device["step_seconds"]),
            *(_seconds(device["wire_seconds"][axis]) for axis in axes),
            _seconds(sum(device["wire_seconds"].values())),
        )
        for device in devices
        if device["wire_seconds"]
    ]
    title = "Time of a step: compute, and bytes on the wire / link speed"
    columns = ("device", "compute", *(f"wire, {axis}" for axis in axes), "wire, all")
    return Group(grid(title, columns, rows, right=range(1, len(columns)), dense=True), Text())


def _devices(
    devices: Sequence[Mapping[str, Any]], setup: Mapping[str, Any], parallel: Mapping[str, Any] | None
) -> RenderableType:
    columns = ("device", "memory", "fits", "batch", "sequence length", "step", "tokens/s", "context length", "decode/s")
    rows = [
        (
            device["name"],
            bytes_of(device["memory"]),
            Text("yes", "green") if device["fits"] else Text("no", "yellow"),
            _number(device["batch"]),
            _number(device["sequence_length"]),
            _seconds(device["step_seconds"]),
            count_of(device["tokens_per_second"]),
            _number(device["context_length"]),
            count_of(device["decode_tokens_per_second"]),
        )
        for device in devices
    ]
    legend = (
        "batch: maximum at this sequence length; sequence length: maximum at this batch; step, tokens/s: training at "
        f"{setup['mfu']:.0%} MFU; context length: longest cache; decode/s: decoded tokens/s, limited by bandwidth\n"
    )
    table = grid("Fits on", columns, rows, right=range(1, len(columns)), dense=True)
    if parallel is None:
        return Group(table, Text(legend))
    more = "on a mesh, step is the compute of a device, and tokens/s those of all devices, compute and wire in turn\n"
    return Group(table, Text(legend[:-1]), Text(more), _wire_times(devices))


def comparison(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of a comparison, with one column per model."""
    models = report["models"]
    right = range(1, len(models) + 1)

    def table(title: str, rows: Sequence[Sequence[Any]]) -> RenderableType:
        return Group(grid(title, ("", *models), rows, right=right, dense=True), Text()) if rows else Text()

    counts = [(name.replace("_", "-"), *map("{:,}".format, values)) for name, values in report["totals"].items()]
    shapes = [
        (row["name"], *(_cell(*item) for item in zip(row["shapes"], row["layers"], strict=True)))
        for row in report["parameters"]
    ]
    memory = [(name, *map(bytes_of, report[group][key])) for name, group, key in _SIZES]
    flops = [(name.replace("_", " "), *map(count_of, values)) for name, values in report["flops"].items()]
    only = [f"only {name} has {', '.join(kinds)}" for name, kinds in report["only"].items() if kinds]
    return Group(
        table("Options that differ", [(name, *map(text_of, values)) for name, values in report["options"].items()]),
        table("Parameters", [*shapes, *counts]),
        Group(*(Text(sentence) for sentence in only), Text()),
        table(f"Memory: {_setup(report['setups'])}", [*_setup_rows(report["setups"]), *memory]),
        table("FLOPs/token (step: total)", flops),
        notes(report["notes"]),
    )


_SIZES = (
    ("weights", "training", "weights"),
    ("optimizer state", "training", "optimizer_state"),
    ("gradients, at most", "training", "gradients"),
    ("activations after forward", "training", "activations"),
    ("logits and loss, at most", "training", "logits"),
    ("training, peak", "training", "peak"),
    ("cache per token and row", "generation", "cache_per_token"),
    ("generation, peak", "generation", "peak"),
)


_SETUP = ("batch", "precision", "optimizer")


def _setup(setups: Sequence[Mapping[str, Any]]) -> str:
    """Return the setup that all models share."""
    return ", ".join(str(setups[0][name]) for name in _SETUP if len({setup[name] for setup in setups}) == 1)


def _setup_rows(setups: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row for each part of the setup that differs between models."""
    rows = [(name, *(str(setup[name]) for setup in setups)) for name in _SETUP]
    return [row for row in rows if len({*row[1:]}) > 1]


def _cell(shape: Sequence[int] | None, layers: int) -> str:
    if shape is None:
        return "-"
    return sizes(shape) + (f" ({layers})" if layers > 1 else "")


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}" if value else "-"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"
