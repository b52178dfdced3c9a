"""The training loop of a trial."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..errors import TrialError
from ..optimizers import Norms, Stepper


@dataclass(frozen=True)
class Step:
    """One step of training.

    Args:
        step: Counted from 1.
        loss: Mean cross-entropy of the batch, in nats a token.
        grad_norm: Euclidean norm of all gradients.
        tokens: Tokens of the batch without padding.
        tokens_per_second: Forward, backward and update.
        peak_memory: Bytes: what CUDA allocated at most in this step; elsewhere the most the process has held so far.
    """

    step: int
    loss: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    peak_memory: int | None

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Trained:
    """What a loop found: its steps, and the parameters that no gradient ever reached."""

    steps: tuple[Step, ...]
    without_gradient: tuple[str, ...]


def train(
    model: nn.Module,
    batches: Iterator[Batch],
    stepper: Stepper,
    *,
    steps: int,
    on_step: Callable[[Step], None] | None = None,
) -> Trained:
    """Train a model for a few steps.

    Args:
        model: A causal language model of transformers: given labels, it returns a loss.
        batches: Keyword arguments of the model, on the CPU.
        stepper: Runs backward and moves the parameters.
        steps: How many.
        on_step: Called after each.

    Raises:
        TrialError: A loss or gradient is not finite. The text names where that began.
    """
    device = next(model.parameters()).device
    model.train()
    done: list[Step] = []
    untouched = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for number in range(1, steps + 1):
        batch = {name: tensor.to(device) for name, tensor in next(batches).items()}
        _reset_peak(device)
        started = _now(device)
        loss = model(**batch, use_cache=False).loss
        if not torch.isfinite(loss):
            raise TrialError(f"step {number}: the loss is {loss.item()}: {_first_bad_output(model, batch)}")
        norms = stepper.step(loss)
        seconds = _now(device) - started
        _check_gradients(norms, number)
        untouched -= norms.keys()
        tokens = int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()
        norm = float(torch.stack([norms[name] for name in sorted(norms)]).norm()) if norms else 0.0
        done.append(Step(number, loss.item(), norm, tokens, tokens / max(seconds, 1e-9), _peak(device)))
        if on_step is not None:
            on_step(done[-1])
    return Trained(tuple(done), tuple(name for name, _ in model.named_parameters() if name in untouched))


def _check_gradients(norms: Norms, step: int) -> None:
    bad = [name for name, norm in norms.items() if not torch.isfinite(norm)]
    if bad:
        more = f" and of {len(bad) - 1} more parameters" if len(bad) > 1 else ""
        raise TrialError(
            f"step {step}: the gradient of {bad[0]}{more} is not finite; try a smaller --lr, or --dtype float32"
        )


@torch.no_grad()
def _first_bad_output(model: nn.Module, batch: Batch) -> str:
    """Run the model once more, and see which module is the first whose output is not finite."""
    bad: list[str] = []
    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: _note(bad, name, output))  # type: ignore[misc]
        for name, module in model.named_modules()
        if name
    ]
    try:
        model(**batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if bad:
        return f"{bad[0]} is the first module whose output is not finite"
    return "every module's output is finite, so that the loss itself fails (has the batch any target?)"


def _note(bad: list[str], name: str, output: Any) -> None:
    tensors = output if isinstance(output, (tuple, list)) else [output]
    if any(isinstance(t, Tensor) and t.is_floating_point() and not torch.isfinite(t).all() for t in tensors):
        bad.append(name)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024  # Linux counts KiB
