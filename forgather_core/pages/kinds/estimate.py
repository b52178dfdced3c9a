"""The page of `estimate`: parameters, memory, FLOPs, devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..bars import bars
from ..content import Content, Figure
from ..drawing import BAD, GOOD, chart, colour
from ..html import Html, badge, brief, card, columns, facts, link, stack
from ..tables import table
from ..units import bytes_of, count_of, integer_of, seconds_of, share_of
from .parameters import memory_chart, parameter_chart, parameter_table

_MOST_DEVICES = 20  # in a chart


def estimate(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of an estimate."""
    setup, parameters, devices = report["setup"], report["parameters"], report["devices"]
    return Content(
        kind="Estimate",
        title=report["model_name"],
        subtitle=_subtitle(report),
        figures=_figures(report),
        blocks=[
            columns(_memory(report), stack(parameter_chart(parameters), _counts(parameters))),
            columns(_shares(report), _speeds(devices, setup)),
            *([_devices(devices, setup)] if devices else []),
            *_parallel(report),
            columns(_flops(report["flops"]), card("Assumptions", facts({**setup, "mfu": f"{setup['mfu']:.0%}"}))),
            parameter_table(parameters),
        ],
        notes=report["notes"],
    )


def _subtitle(report: Mapping[str, Any]) -> str:
    setup = report["setup"]
    return f"{report['configuration']}: batch {setup['batch']}, {setup['precision']}, {setup['optimizer']}"


def _figures(report: Mapping[str, Any]) -> list[Figure]:
    parameters, training, generation = report["parameters"], report["training"], report["generation"]
    devices, setup = report["devices"], report["setup"]
    figures = [
        Figure("Parameters", count_of(parameters["total"]), f"{parameters['total']:,}"),
        Figure("Memory of training", bytes_of(training["peak"]), f"peak, in {training['phase']}"),
        Figure("Memory of generation", bytes_of(generation["peak"]), f"peak, {_context(generation)}"),
        Figure("FLOPs/token", count_of(report["flops"]["training"]), "training, 3 × forward"),
    ]
    if devices:
        fitting = sum(bool(device["fits"]) for device in devices)
        figures.append(Figure("Fits on", f"{fitting} of {len(devices)}", f"devices, at batch {setup['batch']}"))
    return figures


def _context(generation: Mapping[str, Any]) -> str:
    return f"{generation['rows']} × {generation['context_length']:,} tokens"


def _memory(report: Mapping[str, Any]) -> Html:
    generation = report["generation"]
    known = {"weights": generation["weights"], "cache": generation["cache"]}
    other = max(generation["peak"] - sum(known.values()), 0)
    rows = {"training": report["training"]["parts"], "generation": {**known, "other": other}}
    batch, context = report["setup"]["batch"], _context(generation)
    lead = f"Peaks of a training step ({batch}) and of generation ({context}; other: activations and logits)"
    return memory_chart("Memory by category", lead, rows)


def _shares(report: Mapping[str, Any]) -> Html | None:
    """Return a chart of the share of each device's memory that a training step needs."""
    devices, peak = report["devices"][:_MOST_DEVICES], report["training"]["peak"]
    shares = {device["name"]: peak / device["memory"] for device in devices if device["memory"]}
    if not shares:
        return None
    fits = {device["name"]: device["fits"] for device in devices}
    largest = max(1.25, min(max(shares.values()), 2.5))  # a device that is far too small does not flatten the others
    drawn = {name: min(share, largest) for name, share in shares.items()}
    texts = [f"{share_of(share, 1)}{'' if fits[name] else '  does not fit'}" for name, share in shares.items()]
    fills = [GOOD if fits[name] else BAD for name in shares]
    svg = bars("Share of the memory that training needs", drawn, texts, fills, limit=1.0)
    lead = f"Training needs {bytes_of(peak)}; the dashed line is all memory of the device"
    return chart("Share of each device's memory", svg, lead=lead)


def _speeds(devices: Sequence[Mapping[str, Any]], setup: Mapping[str, Any]) -> Html | None:
    speeds = {device["name"]: device["tokens_per_second"] or 0 for device in devices[:_MOST_DEVICES]}
    if not any(speeds.values()):
        return None
    texts = [count_of(speed) if speed else "-" for speed in speeds.values()]
    svg = bars("Tokens per second of training", speeds, texts, [colour(1)] * len(speeds))
    return chart("Training speed", svg, lead=f"Tokens per second at {setup['mfu']:.0%} MFU")


def _devices(devices: Sequence[Mapping[str, Any]], setup: Mapping[str, Any]) -> Html:
    heads = ("device", "memory", "fits", "batch", "sequence length", "step", "tokens/s", "context length", "decode/s")
    rows = [
        (
            link(device["source"], device["name"]) if device["source"] else brief(device["name"]),
            bytes_of(device["memory"]),
            badge("yes", "good") if device["fits"] else badge("no", "bad"),
            _most(device["batch"]),
            _most(device["sequence_length"]),
            seconds_of(device["step_seconds"]),
            count_of(device["tokens_per_second"]),
            _most(device["context_length"]),
            count_of(device["decode_tokens_per_second"]),
        )
        for device in devices
    ]
    legend = (
        "batch: maximum at this sequence length; sequence length: maximum at this batch; step, tokens/s: training at "
        f"{setup['mfu']:.0%} MFU; context length: longest cache; decode/s: decoded tokens/s, limited by bandwidth"
    )
    return card("Devices", table(heads, rows, right=(1, 3, 4, 5, 6, 7, 8), name="devices"), lead=legend)


def _parallel(report: Mapping[str, Any]) -> list[Html]:
    """Return the communication of a device of a mesh, and its time on each device."""
    if "parallel" not in report:
        return []
    parallel, found = report["parallel"], [device for device in report["devices"] if device["wire_seconds"]]
    heads = ("axis", "collective", "phase", "calls", "payload", "on the wire")
    rows = [
        (row["axis"], row["kind"], row["phase"], f"{row['calls']:,}", bytes_of(row["payload"]), bytes_of(row["bytes"]))
        for row in parallel["collectives"]
    ]
    lead = f"{parallel['mesh']}: each device sends and receives {bytes_of(parallel['bytes'])} in a step"
    cards = [card("Communication", table(heads, rows, right=(3, 4, 5), name="communication"), lead=lead)]
    if found:
        axes = list(found[0]["wire_seconds"])
        times = [
            (
                link(device["node_source"], device["name"]) if device["node_source"] else brief(device["name"]),
                seconds_of(device["step_seconds"]),
                *(seconds_of(device["wire_seconds"][axis]) for axis in axes),
                seconds_of(sum(device["wire_seconds"].values())),
            )
            for device in found
        ]
        titles = ("device", "compute", *(f"wire, {axis}" for axis in axes), "wire, all")
        right = range(1, len(titles))
        lead = "Bytes on the wire / link speed, without latency and overlap"
        cards.append(card("Time of a step", table(titles, times, right=tuple(right), name="wire"), lead=lead))
    return cards


def _most(value: int | None) -> str:
    return "?" if value is None else integer_of(value) if value else "-"


def _flops(flops: Mapping[str, float]) -> Html:
    rows = [
        ("forward, weights", count_of(flops["forward_weights"])),
        ("forward, attention", count_of(flops["forward_attention"])),
        ("forward", count_of(flops["forward"])),
        ("training (3 × forward)", count_of(flops["training"])),
        ("computed, with recomputation", count_of(flops["computed"])),
        ("step, all tokens", count_of(flops["step"])),
    ]
    lead = "A multiply-add is two FLOPs"
    return card("FLOPs/token", table(("", "FLOPs"), rows, right=(1,), name="FLOPs"), lead=lead)


def _counts(parameters: Mapping[str, Any]) -> Html:
    rows = [
        ("embedding (input and head)", f"{parameters['embedding']:,}"),
        ("non-embedding", f"{parameters['non_embedding']:,}"),
        ("active (used for each token)", f"{parameters['active']:,}"),
        ("trainable", f"{parameters['trainable']:,}"),
        *((f"size in {name}", bytes_of(size)) for name, size in parameters["bytes_in"].items()),
    ]
    return card("Counts", table(("", "parameters"), rows, right=(1,), name="counts"), lead="Tied parameters count once")
