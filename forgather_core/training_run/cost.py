"""Estimate the time, memory and disk space of a training run, and check that it fits before it begins."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..estimate import Peak, least_memory, memory_of
from ..options.command_options import EstimateOptions
from ..options.parallel import ParallelSizes
from ..options.train_options import TrainOptions
from ..parallel.launched import launched
from ..parallel.memory_share import MemoryShare
from ..parallel.mesh import Mesh
from ..runtime.memory_guard import free_memory
from ..runtime.out_of_memory import format_bytes
from ..settings.resolved_model import ResolvedModel
from ..training.loss import loss_of
from ..training.random_state import kept_random_state
from .plan import Plan

_MEASURED_STEPS = 2  # the first allocates memory, and only the last is measured
_MOMENTS = {"adamw": 2, "muon": 2, "sgd": 1}  # optimizer state: maximum number of moments per parameter
_WEIGHT_BYTES = 4  # per element: weights are float32


@dataclass(frozen=True)
class Cost:
    """The cost of a training run.

    Args:
        seconds: Estimated time of all steps, from measured batches, without evaluations and saves.
        memory: Peak memory of a step in bytes, as `estimate` counts it; None if it cannot be traced, or if the model
            is distributed over several devices.
        disk: Peak disk usage in bytes: the checkpoints that exist at once, and the final weights.
        flops_per_token: FLOPs/token of training; None if the step cannot be traced.
    """

    seconds: float
    memory: int | None
    disk: int
    flops_per_token: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the cost by name."""
        return asdict(self)


def traced_cost(
    resolved: ResolvedModel, options: TrainOptions, plan: Plan, directory: Path
) -> tuple[Peak | None, float | None]:
    """Return the peak memory of a step of the whole model and the FLOPs/token; None if the step cannot be traced."""
    rows, length = options.batch_size, options.sequence_length
    step = EstimateOptions(
        batch_size=rows,
        sequence_length=length,
        fuse_optim_with_backward=options.fuse_optim_with_backward,
        full_logits=options.full_logits,
        optimizer="sgd" if options.optimizer == "sgd" else "adamw",
        precision="mixed" if plan.bf16 else None,
    )
    try:
        memory, _ = memory_of(resolved, step, directory, packed=True)
        peak = memory.training(rows, length).peak
        return peak, 3 * memory.forward(rows, length).total_flops("forward") / (rows * length)
    except Exception:  # some models cannot be traced and train nevertheless
        return None, None


def measured_seconds(model: nn.Module, rows: Iterator[dict[str, Tensor]], options: TrainOptions, plan: Plan) -> float:
    """Estimate the seconds of all steps of a run from forward and backward of one batch, after one that warms up.

    Weights do not change.
    """
    device = next(model.parameters()).device
    compiled: Any = torch.compile(model) if options.compile else model
    seconds = 0.0
    with kept_random_state():
        for _ in range(_MEASURED_STEPS):
            batch = list(islice(rows, options.batch_size))
            inputs = {name: torch.stack([row[name] for row in batch]).to(device) for name in batch[0]}
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
                loss = loss_of(compiled, inputs, full_logits=options.full_logits)
            loss.backward()  # type: ignore[no-untyped-call]
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    return seconds * options.gradient_accumulation_steps * plan.steps


def disk_of(model: nn.Module, options: TrainOptions, plan: Plan) -> int:
    """Return the peak disk usage in bytes: kept checkpoints, the best one, one being written, and the final weights."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weights = _WEIGHT_BYTES * parameters
    checkpoint = weights * (1 + _MOMENTS[options.optimizer])
    saves = -(-plan.steps // plan.save_every)
    return checkpoint * min(options.save_total_limit + 2, saves) + weights


def refuse_if_too_large(
    peak: Peak | None, disk: int, device: torch.device, directory: Path, mesh: Mesh | None = None
) -> None:
    """Check that a run fits into memory and on the disk.

    Args:
        peak: Peak memory of a step of the whole model; None if unknown.
        disk: Bytes of the checkpoints and the final weights, including existing ones.
        device: The device that holds the model, whose weights are there already.
        directory: The model directory.
        mesh: The mesh over which the model is distributed. Without it, each process has a whole model.

    Raises:
        TrainingError: Memory or disk space is insufficient.
    """
    existing = sum(file.stat().st_size for file in directory.glob("checkpoints/*/*") if file.is_file())
    free = shutil.disk_usage(next(path for path in (directory, *directory.parents) if path.exists())).free
    if disk - existing > free:
        problem = (
            f"the checkpoints need {format_bytes(disk - existing)} of disk space, and {format_bytes(free)} are free"
        )
        hint = "free disk space, lower --save-total-limit, choose another --output-dir, or add --force"
        raise TrainingError(problem, hint=hint)
    here, available = launched(), free_memory(str(device))
    alone = MemoryShare.of(ParallelSizes(), device.type, here.local_processes if here is not None else 1)
    needed = least_memory(peak, mesh.memory_share if mesh is not None else alone, held=False) if peak is not None else 0
    if available is not None and needed > available:
        problem = (
            f"a step needs {format_bytes(needed)} of memory, and {format_bytes(available)} are available on {device}"
        )
        hint = "lower --batch-size and raise --gradient-accumulation-steps, or add --force"
        raise TrainingError(problem, hint=hint)
