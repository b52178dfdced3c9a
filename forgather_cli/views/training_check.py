"""The view of `test`: setup, training steps, summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Group, RenderableType

from forgather_core.pages.units import bytes_of, count_of, text_of

from ..render import Text, notes
from ..tables import grid, pairs

_SWITCHES = {
    "gradient_checkpointing": "gradient checkpointing",
    "fuse_optim_with_backward": "fusing the optimizer with backward",
    "chunked_loss": "chunked cross-entropy",
}
_LEVELS = "▁▂▃▄▅▆▇█"


def training_check(report: Mapping[str, Any]) -> RenderableType:
    """Return the view of a training check."""
    setup, memory = report["setup"], report["memory"]
    head = {name.replace("_", " "): text_of(value) for name, value in setup.items()}
    weights = report["parameters"]
    head["parameters"] = f"{weights['total']:,}, {bytes_of(weights['bytes'])}"
    return Group(
        pairs(f"Test of {report['model_name']}", head),
        *([_steps(report["steps"]), Text()] if report["steps"] else []),
        pairs("Summary", dict(_summary(report, memory))),
        notes(report["notes"]),
    )


def _steps(steps: Sequence[Mapping[str, Any]]) -> RenderableType:
    on_device = any(step["device_memory"] is not None for step in steps)
    columns = ["step", "loss", "grad norm", "tokens", "tokens/s", *["device"] * on_device, "host"]
    rows = [
        (
            step["step"],
            f"{step['loss']:.4f}",
            f"{step['grad_norm']:.4f}",
            f"{step['tokens']:,}",
            f"{step['tokens_per_second']:,.0f}",
            *([bytes_of(step["device_memory"])] if on_device else []),
            bytes_of(step["host_memory"]),
        )
        for step in steps
    ]
    return grid("Steps", columns, rows, right=range(len(columns)))


def _summary(report: Mapping[str, Any], memory: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    loss, speed = report["loss"], report["speed"]
    if loss is not None:
        losses = [step["loss"] for step in report["steps"]]
        change = f" to {loss['last']:.4f} ({loss['change']:+.4f})" if len(losses) > 1 else ""
        yield "loss", f"{loss['first']:.4f}{change}; ln(vocabulary) is {loss['uniform']:.4f}"
        if loss["first_batch_decrease"] is not None:
            change = f"{loss['first_batch_after']:.4f} after ({-loss['first_batch_decrease']:+.4f})"
            yield "first batch", f"loss {loss['first']:.4f} before training, {change}"
        if len(losses) > 2:
            yield "loss curve", sparkline(losses)
        if loss["first_batch_decrease"] is not None:
            yield "gradients", "all finite"
        yield "trained weights", report["trained_weights"]
        padding = f", {speed['batch_utilization']:.1%} of the positions are tokens" * (speed["batch_utilization"] < 1)
        yield "speed", f"{speed['tokens_per_second']:,.0f} tokens/s{padding}"
    else:
        yield "shapes", "forward, backward and optimizer step succeed on meta tensors"
    if speed["flops_per_token"] is not None:
        reached = f", {count_of(speed['flops_per_second'])}FLOP/s" if speed.get("flops_per_second") else ""
        mfu = f", MFU {speed['mfu']:.1%} ({speed['device']})" if speed.get("mfu") else ""
        yield "FLOPs/token", f"{count_of(speed['flops_per_token'])}{reached}{mfu}"
    if memory["estimated"] is not None:
        parts = ", ".join(f"{kind} {bytes_of(size)}" for kind, size in memory["parts"].items())
        yield "estimated memory", f"{bytes_of(memory['estimated'])}{f' ({parts})' if parts else ''}"
        saved = [f"{bytes_of(max(size, 0))} by {_SWITCHES[switch]}" for switch, size in memory["saved"].items()]
        if saved:
            yield "memory saved", ", ".join(saved)
    if memory["device_peak"] is not None:
        yield "peak device memory", bytes_of(memory["device_peak"])
    if memory["host_peak"] is not None:
        before = memory["host_before"]
        grown = f", {bytes_of(memory['host_peak'] - before)} of it since the first step" if before else ""
        yield "peak host memory", f"{bytes_of(memory['host_peak'])}{grown}"


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Return a line of block characters, one per value; more than `width` values are averaged in groups."""
    if len(values) > width:
        ends = [len(values) * n // width for n in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(ends)]
    low, high = min(values), max(values)
    scale = (len(_LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(_LEVELS[round((value - low) * scale)] for value in values)
