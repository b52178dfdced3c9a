"""Estimate memory and FLOPs of a model: from a resolved model to a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..errors import BuildError
from ..model.dtypes import parse_dtype
from ..model.meta_model import Template
from ..model.parameters import parameter_table
from ..options.command_options import EstimateOptions, TestOptions, TrainingStepOptions
from ..parallel.mesh import Mesh
from ..runtime.partial_results import keep_partial
from ..runtime.short_repr import Brief
from ..settings.resolved_model import ResolvedModel
from .devices import load_devices, local_devices
from .distributed import mesh_setup, parallel_notes, parallel_report, requested_mesh
from .fits import Fits
from .memory import Memory
from .on_device import on_device
from .timeline import (
    ACTIVATIONS,
    BUFFERS,
    CACHE,
    GATHERED,
    GRADIENTS,
    INPUTS,
    LOGITS,
    OPTIMIZER,
    REDUCED,
    WEIGHTS,
    Timeline,
)
from .wire import Wire

_RESERVED = (
    "1 GiB of each device is reserved for its driver, kernel workspaces and fragmentation, which are not counted"
)
_PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
_UNLIMITED = 2**20  # context length in tokens of a model without max_position_embeddings

OnProgress = Callable[[str], None]


@dataclass(frozen=True, repr=False)
class Estimate(Brief):
    """Estimate of a model.

    Args:
        report: Plain data: model_name, setup, parameters, training, generation, flops, notes; on a mesh, parallel.
        model: The model, on fake tensors.
        fits: Finds the limits of the model on devices.
        wire: The communication of a device of a mesh; None for a single device.
    """

    report: dict[str, Any]
    model: Any
    fits: Fits
    wire: Wire | None = None


def estimate(
    resolved: ResolvedModel,
    options: EstimateOptions,
    on_progress: OnProgress | None = None,
    on_partial: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Estimate memory, FLOPs and the limits on devices. Nothing is allocated or written.

    Args:
        resolved: The resolved model.
        options: The training step, the generation and the devices.
        on_progress: Called with the name of the part being estimated.
        on_partial: Called with the report so far if the estimate ends early.

    Returns:
        The report of `estimate_of`, with `devices`.

    Raises:
        ForgatherError: The options or the device file are invalid.
    """
    report_progress = on_progress or (lambda _: None)
    devices = [*load_devices(options.hardware), *local_devices()]
    with requested_mesh(resolved, fused=options.fuse_optim_with_backward) as mesh:
        found = estimate_of(resolved, options, report_progress, mesh)
        notes, rows = [*found.report["notes"], _RESERVED], list[dict[str, Any]]()

        def keep(reason: str) -> None:
            if on_partial is not None:
                ended = f"ended early, after {len(rows)} of {len(devices)} devices: {reason}"
                on_partial(found.report | {"devices": rows, "notes": [*notes, ended]})

        with keep_partial(keep):
            for device in devices:
                report_progress(device.name)
                rows.append(on_device(device, found.report, found.fits, options, found.wire))
    return found.report | {"devices": rows, "notes": notes}


def estimate_of(
    resolved: ResolvedModel, options: EstimateOptions, on_progress: OnProgress | None = None, mesh: Mesh | None = None
) -> Estimate:
    """Estimate a model without devices.

    Args:
        resolved: The resolved model.
        options: The training step and the generation.
        on_progress: Called with the name of the part being estimated.
        mesh: A mesh over which the model is distributed: memory is that of one device.
    """
    report_progress = on_progress or (lambda _: None)
    build = resolved.build
    report_progress("the model")
    whole, precision = memory_of(resolved, options)
    model = whole.traced
    memory = whole if mesh is None else memory_of(resolved, options, mesh=mesh)[0]
    limit = min(getattr(model.config, "max_position_embeddings", None) or _UNLIMITED, _UNLIMITED)
    rows, length, context = options.batch_size, options.sequence_length, options.context_length or limit
    report_progress("a training step")
    step, forward = memory.training(rows, length), whole.forward(rows, length)
    report_progress("a generation")
    generation = memory.generation(rows, context, options.cache)
    wire = Wire(mesh.sizes, step.collectives) if mesh is not None else None
    report = {
        "configuration": resolved.configuration.name,
        "definition": resolved.definition.name,
        "model_name": resolved.model_name,
        "setup": {
            "batch": _batch(options),
            **({"mesh": mesh_setup(mesh, rows)} if mesh is not None else {}),
            "precision": precision,
            "optimizer": options.optimizer + (", fused with backward" if options.fuse_optim_with_backward else ""),
            "attention": build.attn_implementation or model.config._attn_implementation,
            "gradient_checkpointing": build.gradient_checkpointing,
            "cache": f"{options.cache}, {context:,} tokens",
            "mfu": options.mfu,
        },
        "parameters": _parameters(model, forward, rows * length),
        "training": _training(step),
        "generation": _generation(generation, memory, rows, context),
        "flops": _flops(whole.training(rows, length), forward, rows * length),
        "notes": [*_notes(resolved, options, limit, context), *(parallel_notes() if mesh is not None else ())],
    }
    if wire is not None:
        report["parallel"] = parallel_report(wire, step, rows)
    fits = Fits(memory, rows=rows, length=length, limit=limit, cache=options.cache)
    return Estimate(report, model, fits, wire)


def memory_of_step(resolved: ResolvedModel, template: Template) -> dict[str, Any]:
    """Return the memory of a training step with the default options of `estimate`, for the report of `construct`.

    Args:
        resolved: The resolved model, including dtype, attention and checkpointing.
        template: Class and configuration of the model.
    """
    options = EstimateOptions()
    memory, precision = memory_of(resolved, options, template)
    step = memory.training(options.batch_size, options.sequence_length)
    setup = {"batch": _batch(options), "precision": precision, "optimizer": options.optimizer}
    return {"setup": setup, **_training(step), "cache_per_token": memory.cache_per_token()}


def memory_of(
    resolved: ResolvedModel,
    options: EstimateOptions,
    source: Path | Template | None = None,
    *,
    packed: bool = False,
    mesh: Mesh | None = None,
) -> tuple[Memory, str]:
    """Return the memory of a model, and its precision: fp32, bf16, fp16, mixed or fp64.

    Args:
        resolved: The resolved model, including dtype, attention and checkpointing.
        options: The training step.
        source: The directory or template of the model; None uses the definition's code.
        packed: Rows contain several documents.
        mesh: A mesh over which the model is distributed.
    """
    precision, build = _precision(resolved, options), resolved.build
    memory = Memory(
        resolved,
        optimizer=options.optimizer,
        precision=precision,
        attention=build.attn_implementation,
        checkpointing=build.gradient_checkpointing,
        fused=options.fuse_optim_with_backward,
        full_logits=options.full_logits,
        packed=packed,
        device_type="cuda" if build.device == "meta" else build.device.partition(":")[0],
        source=source,
        mesh=mesh,
    )
    return memory, precision


def memory_of_options(resolved: ResolvedModel, options: TestOptions, directory: Path) -> tuple[Memory, str]:
    """Return the memory of a model directory in the training step of `test`, and its precision."""
    return memory_of(resolved, step_options(options), directory, packed=options.packed)


def step_options(options: TestOptions) -> EstimateOptions:
    """Return the training step of `test` as options of `estimate`."""
    shared = {field.name: getattr(options, field.name) for field in fields(TrainingStepOptions)}
    return EstimateOptions(**shared, optimizer=options.optimizer)


def _batch(options: EstimateOptions) -> str:
    return f"{options.batch_size} x {options.sequence_length}"


def _precision(resolved: ResolvedModel, options: EstimateOptions) -> str:
    dtype = parse_dtype(resolved.build.dtype) if resolved.build.dtype is not None else None
    found = _PRECISIONS[dtype or torch.float32]
    if options.precision is None:
        return found
    if dtype is not None and found != ("fp32" if options.precision == "mixed" else options.precision):
        problem = f"{options.precision} contradicts --dtype {resolved.build.dtype}"
        raise BuildError(problem, option="--precision", hint="remove one of them")
    return options.precision


def _parameters(model: Any, forward: Timeline, tokens: int) -> dict[str, Any]:
    """Count parameters. `active` counts those used for each token, derived from the FLOPs of the forward pass."""
    table = asdict(parameter_table(model))
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    tables = {id(layer.weight): layer.weight for layer in layers if layer is not None}  # one if they are tied
    embedding = sum(table.numel() for table in tables.values())
    by_dtype: dict[str, int] = {}
    for parameter in model.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        by_dtype[name] = by_dtype.get(name, 0) + parameter.numel() * parameter.element_size()
    return table | {
        "embedding": embedding,
        "non_embedding": table["total"] - embedding,
        "active": forward.total_flops("forward", "weights") // (2 * tokens),
        "bytes_by_dtype": by_dtype,
        "bytes_in": {name: table["total"] * size for name, size in (("float32", 4), ("bfloat16", 2), ("int8", 1))},
    }


def _training(step: Timeline) -> dict[str, Any]:
    """Return the peak memory by kind, in the customary order."""
    peak = step.peak
    order = (WEIGHTS, GRADIENTS, OPTIMIZER, GATHERED, REDUCED, ACTIVATIONS, LOGITS, BUFFERS, INPUTS)
    return {
        "peak": peak.bytes,
        "phase": peak.phase,
        "parts": {kind: peak.parts[kind] for kind in order if kind in peak.parts},
        "weights": step.held[WEIGHTS],
        "optimizer_state": step.held.get(OPTIMIZER, 0),
        "gradients": step.peak_of(GRADIENTS),
        "activations": step.after("forward").get(ACTIVATIONS, 0),
        "logits": step.peak_of(LOGITS),
    }


def _generation(timeline: Timeline, memory: Memory, rows: int, context: int) -> dict[str, Any]:
    peak, held = timeline.peak, timeline.after("decode").get(CACHE, 0)
    return {
        "peak": peak.bytes,
        "phase": peak.phase,
        "weights": timeline.held[WEIGHTS],
        "rows": rows,
        "context_length": context,
        "cache": held,
        "cache_per_token": memory.cache_per_token(),
    }


def _flops(step: Timeline, forward: Timeline, tokens: int) -> dict[str, float]:
    """Return FLOPs/token. By convention, training is 3 x the forward pass; `computed` includes recomputation."""
    weights, attention = (forward.total_flops("forward", operands) / tokens for operands in ("weights", "attention"))
    computed = sum(step.flops.values()) / tokens
    return {
        "forward": weights + attention,
        "forward_weights": weights,
        "forward_attention": attention,
        "training": 3 * (weights + attention),
        "computed": computed,
        "step": computed * tokens,
    }


def _notes(resolved: ResolvedModel, options: EstimateOptions, limit: int, context: int) -> Iterator[str]:
    if resolved.build.attn_implementation in ("flex_attention", "flash_attention_2"):
        name = resolved.build.attn_implementation
        yield f"{name} is counted as sdpa's fused kernel, which saves the same tensors for backward"
    longest = max(context, options.sequence_length)
    if longest > limit:
        yield f"{longest:,} tokens exceed the model's max_position_embeddings ({limit:,})"
