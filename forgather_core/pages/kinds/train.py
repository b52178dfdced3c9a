"""The pages of `train`, `sample` and `eval`: loss curve with evaluations, learning rate, gradient norm, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..content import Content, Figure
from ..drawing import chart
from ..html import Html, card, columns, facts
from ..lines import curve
from ..tables import table
from ..units import bytes_of, count_of, duration, finite


def training_run(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of a training run."""
    plan, options, setup = report["plan"], report["options"], report["setup"]
    tokens = count_of(plan["steps"] * plan["tokens_per_step"])
    return Content(
        kind="Training run",
        title=report["model_name"],
        subtitle=f"{tokens} tokens of {report['data']['training']}, {options['optimizer']}, {setup['device']}",
        figures=_figures(report),
        blocks=[
            *_curves(report),
            columns(_memory(report), card("Plan", facts(_shown(plan)))),
            *([_evaluations(report["evaluations"])] if report["evaluations"] else []),
            *([_samples_card(report["samples"])] if report["samples"] else []),
            card("Options", facts(_shown(options))),
            card("Versions", facts(report["versions"])),
        ],
        notes=report["notes"],
    )


def samples(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of continuations."""
    return Content(
        kind="Samples",
        title=report["model_name"],
        blocks=[_samples_card(report["samples"]), card("Options", facts(_shown(report["options"])))],
    )


def evaluation(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of an evaluation."""
    return Content(
        kind="Evaluation",
        title=report["model_name"],
        subtitle=report["data"],
        figures=[
            Figure("Loss", f"{report['loss']:.4f}", "nats per token"),
            Figure("Bits per byte", f"{report['bits_per_byte']:.4f}"),
            Figure("Perplexity", f"{report['perplexity']:,.2f}", "per token"),
            Figure("Unigram entropy", f"{report['unigram_entropy']:.4f}", "nats: the loss of token frequencies alone"),
        ],
        blocks=[card("Data", facts({name: f"{report[name]:,}" for name in ("documents", "tokens", "bytes")}))],
    )


def _figures(report: Mapping[str, Any]) -> list[Figure]:
    final, steps, setup = report["final"], report["steps"], report["setup"]
    figures = [Figure("Parameters", count_of(setup["parameters"]), f"{setup['parameters']:,}")]
    if steps:
        first, last = steps[0], steps[-1]
        figures.append(Figure("Training loss", f"{last['loss']:.4f}", f"from {first['loss']:.4f}"))
    if final is not None and final["loss"] is not None:
        entropy = report["data"]["held_out"]["unigram_entropy"]
        tone = "good" if final["loss"] < entropy else "warn"
        figures.append(Figure("Evaluation loss", f"{final['loss']:.4f}", f"unigram entropy {entropy:.4f}", tone))
        figures.append(Figure("Bits per byte", f"{final['bits_per_byte']:.4f}", "of the held-out documents"))
    if steps:
        mfu = f"MFU {steps[-1]['mfu']:.1%}" if steps[-1]["mfu"] is not None else ""
        figures.append(Figure("Tokens per second", f"{steps[-1]['tokens_per_second']:,.0f}", mfu))
    if final is not None:
        figures.append(Figure("Time", duration(final["seconds"]), f"estimated {duration(report['cost']['seconds'])}"))
    return figures


def _curves(report: Mapping[str, Any]) -> list[Html]:
    steps, evaluations = report["steps"], report["evaluations"]
    if len(steps) < 2:
        return []
    numbers = [step["step"] for step in steps]
    entropy = finite(report["data"]["held_out"]["unigram_entropy"])
    losses = [finite(step["loss"]) for step in steps]
    points = {one["step"]: value for one in evaluations if (value := finite(one["loss"])) is not None}
    lead = "Nats per token; dots: held-out documents; dashed: unigram entropy, the loss of token frequencies alone"
    rates = [step["learning_rate"] for step in steps]
    norms = [finite(step["grad_norm"]) for step in steps]
    return [
        chart("Loss curve", curve("Loss", numbers, losses, 1, entropy, points), lead=lead),
        columns(
            chart("Learning rate", curve("Learning rate", numbers, rates, 3), lead="Set by the schedule"),
            chart("Gradient norm", curve("Gradient norm", numbers, norms, 2), lead="L2 norm, before clipping"),
        ),
    ]


def _memory(report: Mapping[str, Any]) -> Html:
    steps, cost = report["steps"], report["cost"]
    values: dict[str, Any] = {"disk, at most": bytes_of(cost["disk"])}
    if cost["memory"] is not None:
        values["step, estimated"] = bytes_of(cost["memory"])
    if steps:
        values["host, peak"] = bytes_of(steps[-1]["host_memory"])
        if steps[-1]["device_memory"] is not None:
            values["device, peak"] = bytes_of(steps[-1]["device_memory"])
    return card("Memory and disk", facts(values))


def _evaluations(evaluations: Sequence[Mapping[str, Any]]) -> Html:
    rows = [(f"{one['step']:,}", f"{one['loss']:.4f}", f"{one['bits_per_byte']:.4f}") for one in evaluations]
    heads = ("step", "loss", "bits per byte")
    return card("Evaluations", table(heads, rows, right=range(len(heads)), name="evaluations"))


def _samples_card(generated: Sequence[Mapping[str, str]]) -> Html:
    rows = [(one["prompt"], one["continuation"]) for one in generated]
    return card("Samples", table(("text", "continuation"), rows, name="samples"))


def _shown(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("_", " "): value for name, value in values.items() if value is not None}
