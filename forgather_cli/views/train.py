"""Views of `train`, `sample` and `eval`, and the progress lines of a training run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType

from forgather_core.pages.units import bytes_of, count_of, duration, with_noun

from ..render import Text, notes
from ..tables import grid, pairs
from .training_check import sparkline


def cost_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that describe a training run before its first step: model, data, cost."""
    setup, plan, data, cost = (report[name] for name in ("setup", "plan", "data", "cost"))
    steps, rows = plan["steps"], plan["rows"]
    tokens = count_of(steps * plan["tokens_per_step"]).strip()
    where = f"{setup['device']}{', bf16' if plan['bf16'] else ''}"
    yield f"training {report['model_name']} ({count_of(setup['parameters']).strip()} parameters) on {where}"
    yield f"{with_noun(steps, 'step')} of {with_noun(rows, 'row')}, {tokens} tokens, from {data['training']}"
    held = data["held_out"]
    yield f"held out: {with_noun(held['documents'], 'document')}, {with_noun(held['tokens'], 'token')}"
    memory = f"{bytes_of(cost['memory'])} of memory, " if cost["memory"] is not None else ""
    yield f"cost: about {duration(cost['seconds'])}, {memory}{bytes_of(cost['disk'])} of disk"
    if setup["continued_from"]:
        yield f"continuing from {setup['continued_from']}"


def record_line(record: Mapping[str, Any]) -> str:
    """Return the measurements of a step in one line."""
    norm = f", grad norm {record['grad_norm']:.3f}" if record["grad_norm"] is not None else ""
    mfu = f", MFU {record['mfu']:.1%}" if record["mfu"] is not None else ""
    return (
        f"step {record['step']:,}: loss {record['loss']:.4f}{norm}, lr {record['learning_rate']:.2e}, "
        f"{record['tokens_per_second']:,.0f} tokens/s{mfu}, {duration(record['seconds_left'])} left"
    )


def training_run(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of a training run."""
    setup, plan, final = report["setup"], report["plan"], report["final"]
    chosen = report["options"]
    head = {
        "directory": report["directory"],
        "device": f"{setup['device']}{', bf16' if plan['bf16'] else ''}",
        "parameters": f"{setup['parameters']:,}",
        "data": report["data"]["training"],
        "steps": f"{plan['steps']:,} of {plan['rows']:,} rows of {chosen['sequence_length']:,} tokens",
        "optimizer": f"{chosen['optimizer']}, lr {plan['lr']:g}, {chosen['schedule']}",
    }
    losses = [step["loss"] for step in report["steps"]]
    summary: dict[str, str] = {}
    if losses:
        summary["loss"] = f"{losses[0]:.4f} to {losses[-1]:.4f}"
        summary["loss curve"] = sparkline(losses)
    if final is not None and final["loss"] is not None:
        held = report["data"]["held_out"]
        summary["evaluation"] = f"loss {final['loss']:.4f}, {final['bits_per_byte']:.4f} bits per byte"
        summary["unigram entropy"] = f"{held['unigram_entropy']:.4f}, the loss of token frequencies alone"
        summary["time"] = duration(final["seconds"])
    if report["steps"]:
        last = report["steps"][-1]
        summary["speed"] = f"{last['tokens_per_second']:,.0f} tokens/s"
        summary["peak host memory"] = bytes_of(last["host_memory"])
    rows = [(f"{one['step']:,}", f"{one['loss']:.4f}", f"{one['bits_per_byte']:.4f}") for one in report["evaluations"]]
    columns = ["step", "loss", "bits per byte"]
    return Group(
        pairs(f"Training of {report['model_name']}", head),
        *([grid("Evaluations", columns, rows, right=range(3)), Text()] if rows else []),
        pairs("Summary", summary),
        *_sample_views(report["samples"]),
        notes(report["notes"]),
    )


def samples(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of continuations."""
    return Group(*_sample_views(report["samples"]))


def evaluation(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of an evaluation."""
    values = {
        "data": f"{report['data']}: {with_noun(report['documents'], 'document')}, {with_noun(report['bytes'], 'byte')}",
        "loss": f"{report['loss']:.4f} nats per token, perplexity {report['perplexity']:,.2f}",
        "bits per byte": f"{report['bits_per_byte']:.4f}",
        "unigram entropy": f"{report['unigram_entropy']:.4f} nats, the loss of token frequencies alone",
        "tokens": f"{report['tokens']:,} predicted",
    }
    return pairs(f"Evaluation of {report['model_name']}", values)


def _sample_views(generated: list[Mapping[str, str]]) -> Iterator[RenderableType]:
    for one in generated:
        line = Text(one["prompt"], "bold")
        line.append_text(Text(one["continuation"]))
        yield Group(line, Text())
