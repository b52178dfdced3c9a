"""A Trainer callback that records the steps of a run, and stops a run whose loss does not fall."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean
from typing import Any

from torch import nn
from transformers import TrainerCallback

from ..checkpoint import find_latest_checkpoint
from ..errors import TrainingError
from ..filesystem.printable import truncated_list
from ..training import measure
from ..training.combined_optimizer import is_fused
from ..training.optimizers import largest

_FIRST, _LAST = 5, 20  # the mean of the last 20 logged losses is compared with that of the first 5
_LOSS_PATIENCE = 100  # steps after which the loss must have fallen
_GRADIENT_PATIENCE = 10  # steps after which every parameter must have received a gradient


@dataclass(frozen=True)
class TrainingRecord:
    """Measurements of a training run at one step; means are over the steps since the previous record.

    Args:
        step: Number of the step, from 1.
        loss: Mean cross-entropy in nats per token.
        grad_norm: Norm of the gradient of this step, before clipping; None if it was not computed.
        learning_rate: Learning rate of this step.
        tokens: Tokens since the beginning of the run, including padding.
        tokens_per_second: Mean throughput.
        mfu: Model FLOPs utilization; None if the peak of the device is unknown.
        seconds: Seconds since the beginning, without the time between an interruption and the run that continues it.
        seconds_left: Estimated seconds to the end of the run.
        device_memory: Peak memory on the device in bytes; None if torch does not count it.
        host_memory: Peak memory of the process in bytes.
    """

    step: int
    loss: float
    grad_norm: float | None
    learning_rate: float
    tokens: int
    tokens_per_second: float
    mfu: float | None
    seconds: float
    seconds_left: float
    device_memory: int | None
    host_memory: int

    def to_dict(self) -> dict[str, Any]:
        """Return the measurements by name."""
        return asdict(self)


class TrainingCallback(TrainerCallback):
    """Record the steps of a run, and stop it if its loss does not fall or if a parameter is not trained.

    Args:
        tokens_per_step: Tokens per optimizer step of all processes, including padding.
        on_record: Called with each record.
        on_evaluation: Called with the step and the metrics of each evaluation.
        peak_flops: Peak FLOP/s of all devices together; None if unknown.
        flops_per_token: FLOPs of training on a token; None if unknown.
        stop: Whether to stop a run whose loss does not fall, or in which a parameter receives no gradient.
        falls: Whether the loss is expected to fall, as with newly initialized weights; if not, it is not checked.

    Raises:
        TrainingError: During training: the loss does not fall, or a parameter has received no gradient.

    Attributes:
        records: The records so far, those of an interrupted run included: they are in the Trainer's `log_history`.
        evaluations: Step, loss, bits_per_byte and tokens of each evaluation so far.
    """

    def __init__(
        self,
        tokens_per_step: int,
        *,
        on_record: Callable[[TrainingRecord], None] | None = None,
        on_evaluation: Callable[[int, dict[str, float]], None] | None = None,
        peak_flops: float | None = None,
        flops_per_token: float | None = None,
        stop: bool = True,
        falls: bool = True,
    ) -> None:
        self.tokens_per_step, self.stop, self.falls = tokens_per_step, stop, falls
        self.on_record, self.on_evaluation = on_record, on_evaluation
        self.peak_flops, self.flops_per_token = peak_flops, flops_per_token
        self.records: list[TrainingRecord] = []
        self.evaluations: list[dict[str, float]] = []
        self._untrained: set[str] | None = None
        self._first_step = self._last_step = 0
        # Seconds. _before: before an interruption. _busy: in steps, without evaluations and saves.
        self._before = self._began = self._mark = self._busy = self._last_busy = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Load the records of an interrupted run, and start to measure time."""
        state.compute_steps(args, state.max_steps)  # a continued run may have other intervals
        names = [field.name for field in fields(TrainingRecord)]
        logs = [entry for entry in state.log_history if entry["step"] <= state.global_step]
        self.records = [
            TrainingRecord(**{name: log[name] for name in names}) for log in logs if set(names) <= log.keys()
        ]
        self.evaluations = [_evaluation(log["step"], log) for log in logs if "eval_bits_per_byte" in log]
        self._first_step = self._last_step = state.global_step
        self._began = self._mark = time.perf_counter()
        self._before = self.records[-1].seconds if self.records else 0.0
        if state.global_step == 0 and not is_fused(kwargs.get("optimizer")):  # which frees gradients within backward
            model: nn.Module = kwargs["model"]
            self._untrained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record which parameters have received a gradient, in the first steps of a run."""
        if self._untrained:
            model: nn.Module = kwargs["model"]
            parameters = dict(model.named_parameters())
            self._untrained -= {
                name  # in one order: the processes of a mesh reduce each gradient together
                for name in sorted(self._untrained)
                if (grad := parameters[name].grad) is not None and bool(largest(grad))
            }

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the time of the step; stop if a parameter has received no gradient in the first steps."""
        now = time.perf_counter()
        self._busy += now - self._mark
        self._mark = now
        if self._untrained and state.global_step >= _GRADIENT_PATIENCE:
            names, self._untrained = truncated_list(sorted(self._untrained)), None
            if self.stop:
                checkpoint = last_checkpoint(args.output_dir)
                problem = f"step {state.global_step}: no gradient has reached {names}{checkpoint}"
                hint = "run forgather -t NAME model verify, or add --force to train the other parameters"
                raise TrainingError(problem, hint=hint)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Record the measurements that the Trainer logs."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        steps, seconds = state.global_step - self._last_step, max(self._busy - self._last_busy, 1e-9)
        per_second = steps * self.tokens_per_step / seconds
        done = state.global_step - self._first_step
        mfu = None
        if self.peak_flops and self.flops_per_token:
            mfu = per_second * self.flops_per_token / self.peak_flops
        device = args.device
        record = TrainingRecord(
            step=state.global_step,
            loss=logs["loss"],
            grad_norm=logs.get("grad_norm"),
            learning_rate=logs["learning_rate"],
            tokens=state.global_step * self.tokens_per_step,
            tokens_per_second=per_second,
            mfu=mfu,
            seconds=self._before + time.perf_counter() - self._began,
            seconds_left=self._busy / max(done, 1) * (state.max_steps - state.global_step),
            device_memory=measure.device_peak(device),
            host_memory=measure.host_peak(),
        )
        self._last_step, self._last_busy = state.global_step, self._busy
        self.records.append(record)
        state.log_history[-1].update(record.to_dict())  # checkpoints contain the history
        if self.on_record is not None:
            self.on_record(record)
        self._check_loss_falls(state, args.output_dir)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Record an evaluation."""
        self._mark = time.perf_counter()
        if metrics is not None and "eval_bits_per_byte" in metrics:
            self.evaluations.append(_evaluation(state.global_step, metrics))
            if self.on_evaluation is not None and state.is_world_process_zero:
                self.on_evaluation(state.global_step, self.evaluations[-1])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Exclude the time of a save from the time of the steps."""
        self._mark = time.perf_counter()

    def _check_loss_falls(self, state: Any, directory: str) -> None:
        if not (self.stop and self.falls) or len(self.records) < _FIRST + _LAST or state.global_step < _LOSS_PATIENCE:
            return
        first = mean(record.loss for record in self.records[:_FIRST])
        last = mean(record.loss for record in self.records[-_LAST:])
        if last >= first:
            losses = f"{first:.4f} at the beginning, {last:.4f} now"
            problem = f"step {state.global_step}: the loss does not fall: {losses}{last_checkpoint(directory)}"
            raise TrainingError(problem, hint="try a smaller --lr, run forgather -t NAME model verify, or add --force")


def _evaluation(step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    return {"step": step} | {name: metrics[f"eval_{name}"] for name in ("loss", "bits_per_byte", "tokens")}


def last_checkpoint(directory: str | Path) -> str:
    """Return the part of a message that names the last checkpoint of a run; empty if there is none."""
    latest = find_latest_checkpoint(directory)
    return f"; the last checkpoint is {latest}" if latest is not None else ""
