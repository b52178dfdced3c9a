"""The page of `construct`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..content import Content, Figure
from ..html import Html, badge, card, columns, facts, stack
from ..tables import table
from ..units import bytes_of, count_of
from .checkpoint import loaded_card, saved_card
from .parameters import memory_chart, parameter_chart, parameter_table
from .show import options_card


def construction(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of a constructed model."""
    parameters, memory, loaded, saved = (report[name] for name in ("parameters", "memory", "loaded", "saved"))
    blocks = [
        columns(
            stack(parameter_chart(parameters), card("Model", facts(report["build"]))),
            _memory(memory) if memory else None,
        ),
        columns(_tokenizer(report["tokenizer"]), _compatibility(report["compatibility"])),
        *([loaded_card(loaded)] if loaded else []),
        *([saved_card(saved)] if saved else []),
        options_card("Configuration", report["options"]),
        parameter_table(parameters),
    ]
    notes = [*report["notes"]]
    notes += [*loaded["notes"], *loaded["problems"]] if loaded else []
    notes += saved["notes"] if saved else []
    return Content(
        kind="Constructed model",
        title=report["model_name"],
        subtitle=f"{report['configuration']} in {report['directory']} ({report['state']})",
        figures=_figures(report),
        blocks=blocks,
        notes=notes,
    )


def _figures(report: Mapping[str, Any]) -> list[Figure]:
    parameters, memory, build = report["parameters"], report["memory"], report["build"]
    figures = [
        Figure("Parameters", count_of(parameters["total"]), f"{parameters['total']:,}"),
        Figure("Weights", bytes_of(parameters["bytes"]), f"{build['dtype']}, on {build['device']}"),
    ]
    if memory:
        assumed = ", ".join(memory["setup"].values())
        figures.append(Figure("Memory of training", bytes_of(memory["peak"]), f"peak; {assumed}"))
    tokenizer = report["tokenizer"]
    figures.append(Figure("Vocabulary", f"{tokenizer['vocab_size']:,}", f"tokenizer {tokenizer['name']}"))
    return figures


def _memory(step: Mapping[str, Any]) -> Html:
    lead = f"{', '.join(step['setup'].values())}; the peak is in {step['phase']}"
    return memory_chart("Peak memory of a training step", lead, {"training step": step["parts"]})


def _tokenizer(known: Mapping[str, Any]) -> Html:
    return card("Tokenizer", facts({name: f"{v:,}" if type(v) is int else v for name, v in known.items()}))


def _compatibility(rows: Sequence[Mapping[str, Any]]) -> Html:
    drawn = [(row["name"], badge("yes", "good") if row["loads"] else badge("no", "warn"), row["how"]) for row in rows]
    return card("Loads in", table(("tool", "loads", "notes"), drawn, name="compatibility"))
