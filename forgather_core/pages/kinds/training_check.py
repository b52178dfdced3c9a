"""The page of `test`: loss curve, gradient norm, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..content import Content, Figure
from ..drawing import chart
from ..html import Html, card, columns, facts
from ..lines import curve
from ..tables import table
from ..units import bytes_of, count_of, finite
from .parameters import memory_chart

_SWITCHES = {
    "gradient_checkpointing": "gradient checkpointing",
    "fuse_optim_with_backward": "fusing the optimizer with backward",
    "chunked_loss": "chunked cross-entropy",
}


def training_check(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of a training check."""
    setup, steps = report["setup"], report["steps"]
    described = [str(setup[name]) for name in ("data", "batch", "dtype", "device", "optimizer") if name in setup]
    return Content(
        kind="Training check",
        title=report["model_name"],
        subtitle=", ".join(described),
        figures=_figures(report),
        blocks=[
            columns(*_curves(report)),
            columns(_memory(report["memory"], report["parameters"]["bytes"]), _summary(report)),
            *([_steps(steps)] if steps else []),
            card("Setup", facts({**setup, "trained weights": report["trained_weights"]})),
        ],
        notes=report["notes"],
    )


def _figures(report: Mapping[str, Any]) -> list[Figure]:
    parameters, loss, speed, memory = (report[name] for name in ("parameters", "loss", "speed", "memory"))
    figures = [Figure("Parameters", count_of(parameters["total"]), f"{parameters['total']:,}")]
    if loss is not None:
        figures.append(
            Figure("Loss", _loss(loss["last"]), f"from {_loss(loss['first'])}, {len(report['steps'])} steps")
        )
        decrease = finite(loss["first_batch_decrease"])
        if decrease is not None:
            detail = f"{_loss(loss['first'])} before, {_loss(loss['first_batch_after'])} after"
            trained = "good" if decrease > 0 else "bad"
            figures.append(Figure("Loss on the first batch", f"{-decrease:+.4f}".replace("-", "−"), detail, trained))
        mfu = f", MFU {speed['mfu']:.1%}" if speed.get("mfu") else ""
        figures.append(Figure("Tokens per second", f"{speed['tokens_per_second']:,.0f}", f"{_flops(speed)}{mfu}"))
    measured = _measured(memory)
    if measured is not None:
        figures.append(Figure("Peak memory", bytes_of(measured[1]), measured[0]))
    elif memory["estimated"] is not None:
        figures.append(Figure("Peak memory", bytes_of(memory["estimated"]), "estimated"))
    return figures


def _loss(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else str(value)


def _flops(speed: Mapping[str, Any]) -> str:
    return f"{count_of(speed['flops_per_second'])}FLOP/s" if speed.get("flops_per_second") else ""


def _curves(report: Mapping[str, Any]) -> list[Html]:
    steps = report["steps"]
    if len(steps) < 2:
        return []
    numbers = [step["step"] for step in steps]
    losses = [finite(step["loss"]) for step in steps]
    norms = [finite(step["grad_norm"]) for step in steps]
    uniform = finite(report["loss"]["uniform"]) if report["loss"] else None
    dashed = "" if uniform is None else f"; dashed: ln(vocabulary), {uniform:.4f}, the loss of uniform guessing"
    return [
        chart("Loss curve", curve("Loss", numbers, losses, 1, uniform), lead=f"Nats per token{dashed}"),
        chart(
            "Gradient norm",
            curve("Gradient norm", numbers, norms, 2),
            lead="L2 norm of all gradients",
        ),
    ]


def _measured(memory: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return a label and the measured peak memory in bytes, of the device or else of the process."""
    if memory["device_peak"] is not None:
        return "measured on the device", memory["device_peak"]
    if memory["host_peak"] is not None:
        return "measured, whole process", memory["host_peak"]
    return None


def _memory(memory: Mapping[str, Any], weights: int) -> Html | None:
    """Return a chart of the estimated memory and of the measured, which on the CPU is the growth of the process."""
    parts = memory["parts"] or ({"other": memory["estimated"]} if memory["estimated"] else {})
    if not parts:
        return None
    lead, measured = "A training step", {}
    if memory["device_peak"] is not None:
        measured = {"measured": memory["device_peak"]}
        lead = "A training step. Measured: peak of the device's allocator"
    elif memory["host_peak"] is not None and memory["host_before"] is not None:
        measured = {"weights": weights, "measured": max(memory["host_peak"] - memory["host_before"], 0)}
        lead = "A training step. Measured: the weights, and the growth of the process during training"
    return memory_chart("Memory, estimated and measured", lead, {"estimated": parts}, measured or None)


def _summary(report: Mapping[str, Any]) -> Html:
    loss, speed, memory = report["loss"], report["speed"], report["memory"]
    values: dict[str, Any] = {}
    if loss is None:
        values["shapes"] = "forward, backward and optimizer step succeed on meta tensors"
    else:
        values["loss"] = f"{_loss(loss['first'])} to {_loss(loss['last'])}"
        values["ln(vocabulary)"] = _loss(loss["uniform"])
        if loss["first_batch_decrease"] is not None:
            values["gradients"] = "all finite"
        values["batch utilization"] = f"{speed['batch_utilization']:.1%}"
    if speed["flops_per_token"] is not None:
        values["FLOPs/token"] = count_of(speed["flops_per_token"])
    if speed.get("device"):
        values["device"] = speed["device"]
    for name, key in (
        ("estimated memory", "estimated"),
        ("device, peak", "device_peak"),
        ("host, peak", "host_peak"),
    ):
        if memory[key] is not None:
            values[name] = bytes_of(memory[key])
    for switch, size in (memory["saved"] or {}).items():  # not estimated if interrupted
        values[f"saved by {_SWITCHES.get(switch, switch)}"] = bytes_of(max(size, 0))
    values["weights"] = bytes_of(report["parameters"]["bytes"])
    return card("Summary", facts(values))


def _steps(steps: Sequence[Mapping[str, Any]]) -> Html:
    on_device = any(step["device_memory"] is not None for step in steps)
    heads = ("step", "loss", "grad norm", "tokens", "tokens/s", *["device"] * on_device, "host")
    rows = [
        (
            step["step"],
            _loss(step["loss"]),
            _loss(step["grad_norm"]),
            f"{step['tokens']:,}",
            f"{step['tokens_per_second']:,.0f}",
            *([bytes_of(step["device_memory"] or 0)] if on_device else []),
            bytes_of(step["host_memory"]),
        )
        for step in steps
    ]
    return card("Steps", table(heads, rows, right=range(len(heads)), name="steps"))
