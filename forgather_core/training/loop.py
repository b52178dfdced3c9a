"""The training loop of a trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..errors import TrialError
from ..runtime.partial_results import keep_partial
from ..runtime.short_repr import Brief
from . import measure
from .diagnosis import RandomState, exploding, first_not_finite
from .loss import loss_of
from .optimizers import Norms, Stepper

_SMALLER = "try a smaller --lr, or --dtype float32"


@dataclass(frozen=True)
class Step:
    """One step of training.

    Args:
        step: Counted from 1.
        loss: Mean cross-entropy of the batch, in nats a token.
        grad_norm: Euclidean norm of all gradients.
        tokens: Tokens of the batch without padding.
        utilization: Their part in all places of the batch.
        tokens_per_second: Forward, backward and update.
        device_memory: Bytes that torch allocated on the device at most; None where it does not count them.
        host_memory: Bytes that the process held at most.
    """

    step: int
    loss: float
    grad_norm: float
    tokens: int
    utilization: float
    tokens_per_second: float
    device_memory: int | None
    host_memory: int

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class TrainingResult(Brief):
    """What a loop found.

    Args:
        steps: The steps.
        again: The loss of the first batch after the last step, with the dropout of the first one: what differs is the
            weights alone, where the losses of steps differ by their batches too.
        without_gradient: The parameters that no gradient ever reached.
        exploding: Which module of a fresh model makes numbers large; None if none does.
        ended: Why the loop ended before its last step, or before the loss of the first batch was computed again;
            None if it did not.
    """

    steps: tuple[Step, ...]
    again: float | None
    without_gradient: tuple[str, ...]
    exploding: str | None = None
    ended: str | None = None


def train(
    model: nn.Module,
    batches: Iterator[Batch],
    stepper: Stepper,
    *,
    steps: int,
    keep_logits: bool = False,
    fresh: bool = False,
    on_step: Callable[[Step], None] | None = None,
    on_partial: Callable[[TrainingResult], None] | None = None,
) -> TrainingResult:
    """Train a model for a few steps.

    Args:
        model: A causal language model of transformers: given labels, it returns a loss.
        batches: What it is called with, on the CPU.
        stepper: Runs backward and moves the parameters.
        steps: How many.
        keep_logits: Whether logits of all tokens are computed even if the model can do without.
        fresh: Whether the weights are the initial ones, so that no module should make numbers large.
        on_step: Called after each.
        on_partial: Called with the steps so far if the loop ends early.

    Raises:
        TrialError: A loss or gradient is not finite, or the loss of the first batch after the last step. The text names
            where that began; unless parameters move within backward, they are still those that failed.
    """
    device = next(model.parameters()).device
    model.train()
    done: list[Step] = []
    large: str | None = None
    first: tuple[dict[str, Tensor], RandomState] | None = None
    untouched = {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def keep(reason: str) -> None:
        if done and on_partial is not None:
            on_partial(TrainingResult(tuple(done), None, (), large, reason))

    with keep_partial(keep):
        for number in range(1, steps + 1):
            batch = next(batches)
            inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
            if number == 1 and fresh:
                large = _eagerly(exploding, model, inputs)
            rng = RandomState.take(device)
            first = (inputs, rng) if number == 1 else first
            began = measure.begin(device)
            loss = loss_of(model, inputs, keep_logits=keep_logits)
            if stepper.fused and not loss.isfinite():  # backward would move the weights
                raise TrialError(_about_loss(model, inputs, rng, number, loss))
            norms = stepper.backward(loss)
            norm = _total(norms, device)
            if not (loss.isfinite() & norm.isfinite()):
                raise TrialError(_about_failure(model, inputs, rng, number, loss, norms if stepper.fused else None))
            stepper.optimizer_step()
            seconds = measure.now(device) - began
            untouched -= norms.keys()
            done.append(
                Step(
                    step=number,
                    loss=loss.item(),
                    grad_norm=norm.item(),
                    tokens=batch.tokens,
                    utilization=batch.tokens / inputs["input_ids"].numel(),
                    tokens_per_second=batch.tokens / max(seconds, 1e-9),
                    device_memory=measure.device_peak(device),
                    host_memory=measure.host_peak(),
                )
            )
            if on_step is not None:
                on_step(done[-1])
        again = _loss_again(model, *first, keep_logits=keep_logits) if first is not None else math.nan
    without = tuple(name for name, _ in model.named_parameters() if name in untouched)
    return TrainingResult(tuple(done), again, without, large)


def _loss_again(model: nn.Module, inputs: dict[str, Tensor], rng: RandomState, *, keep_logits: bool) -> float:
    rng.restore()
    loss = loss_of(model, inputs, keep_logits=keep_logits).detach()  # as in a step: another mode would compile anew
    if not loss.isfinite():
        reason = _eagerly(first_not_finite, model, inputs, rng=rng)
        raise TrialError(f"after the last step the loss of the first batch is {loss.item()}: {reason}; {_SMALLER}")
    return loss.item()


def _total(norms: Norms, device: torch.device) -> Tensor:
    # By name, not in the order of backward: a fused step must give the very number of a plain one.
    ordered = [norms[name] for name in sorted(norms)]
    return torch.stack(ordered).norm() if ordered else torch.zeros((), device=device)


def _about_failure(
    model: nn.Module, inputs: dict[str, Tensor], rng: RandomState, step: int, loss: Tensor, moved: Norms | None
) -> str:
    if not loss.isfinite():
        return _about_loss(model, inputs, rng, step, loss)
    if moved is not None:  # in the order of backward
        first = next((name for name, norm in moved.items() if not norm.isfinite()), None)
        return (
            f"step {step}: the gradient of {first or 'all parameters'} is the first in backward that is not finite; "
            f"{_SMALLER}, or drop --fuse-optim-with-backward to see which module made it so"
        )
    return f"step {step}: a gradient is not finite: {_eagerly(first_not_finite, model, inputs, rng=rng)}; {_SMALLER}"


def _about_loss(model: nn.Module, inputs: dict[str, Tensor], rng: RandomState, step: int, loss: Tensor) -> str:
    return f"step {step}: the loss is {loss.item()}: {_eagerly(first_not_finite, model, inputs, rng=rng)}"


def _eagerly(look: Callable[..., Any], model: nn.Module, inputs: dict[str, Tensor], **how: Any) -> Any:
    """Watch a pass of the model's modules, which a compiled model does not call."""
    with torch.compiler.set_stance("force_eager"):  # type: ignore[no-untyped-call]
        return look(model, inputs, **how)
