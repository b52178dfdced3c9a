"""The limits and the speed of an estimated model on a device."""

from __future__ import annotations

from typing import Any

from ..options.command_options import EstimateOptions
from ..options.parallel import ParallelSizes
from .devices import Device
from .fits import Fits
from .wire import Wire


def on_device(
    device: Device, report: dict[str, Any], fits: Fits, options: EstimateOptions, wire: Wire | None
) -> dict[str, Any]:
    """Return the limits of a model on a device, and its speed if the FLOP/s and bandwidth of the device are known.

    Args:
        device: The device.
        report: The report of the estimate without devices.
        fits: The limits of the model, or of its part on a device of a mesh.
        options: The training step and the generation.
        wire: The communication of a device of a mesh; None for a single device.
    """
    rows, length = options.batch_size, options.sequence_length
    sizes = wire.sizes if wire is not None else ParallelSizes()
    speed, fitting = device.flops_in(report["setup"]["precision"]), fits.step_fits(device)
    flops = report["parallel"]["flops"] if wire is not None else report["flops"]["step"]
    seconds = flops / (speed * options.mfu) if speed is not None and fitting else None
    on_wire = wire.seconds(device) if wire is not None and fitting else None
    whole = seconds if wire is None or seconds is None else seconds + sum(on_wire.values()) if on_wire else None
    generation, context = report["generation"], fits.longest_generation(device)
    bytes_per_token = generation["weights"] + generation["cache"]  # each decoded token reads both once
    decodes = device.bandwidth and context >= generation["context_length"] and sizes.fsdp == 1
    limits = {
        "name": device.name,
        "memory": device.memory,
        "fits": fitting,
        "batch": fits.max_rows(device),
        "sequence_length": fits.longest(device),
        "step_seconds": seconds,
        "tokens_per_second": rows * length * sizes.data / whole if whole else None,
        "context_length": context,
        "decode_tokens_per_second": (
            rows * sizes.data * device.bandwidth / bytes_per_token if decodes and device.bandwidth else None
        ),
        "source": device.source,
    }
    return limits if wire is None else limits | {"wire_seconds": on_wire, "node_source": device.node_source}
