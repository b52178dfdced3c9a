"""A short training loop that measures every step and explains failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..errors import TrainingCheckError
from ..runtime.partial_results import keep_partial
from ..runtime.short_repr import Brief
from . import measure
from .diagnosis import FLOAT16, find_nonfinite
from .exploding import find_exploding_module
from .loss import loss_of
from .optimizers import Norms, Stepper
from .random_state import RandomState
from .row_share import RowShare

_SMALLER_LR = "try a smaller --lr, or --dtype float32"
_CORRECT_THE_MODEL = "correct the model's code, its weights or the batch"


@dataclass(frozen=True)
class Step:
    """Measurements of one training step.

    Args:
        step: Number of the step, from 1.
        loss: Mean cross-entropy of the batch, in nats per token.
        grad_norm: Euclidean norm of all gradients.
        tokens: Tokens in the batch, without padding.
        batch_utilization: `tokens` as a fraction of all positions of the batch.
        tokens_per_second: `tokens` over the time of forward, backward and update.
        device_memory: Peak memory allocated on the device, in bytes; None if torch does not count it.
        host_memory: Peak memory of the process, in bytes.
    """

    step: int
    loss: float
    grad_norm: float
    tokens: int
    batch_utilization: float
    tokens_per_second: float
    device_memory: int | None
    host_memory: int

    def as_dict(self) -> dict[str, Any]:
        """Return the measurements as plain data."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class TrainingResult(Brief):
    """Result of a training loop.

    Args:
        steps: Measurements of each step.
        first_batch_after: Loss on the first batch after the last step, with the dropout of the first step. Only the
            weights differ from those of the first step; the losses of other steps are also those of other batches.
        without_gradient: Names of the parameters that never received a gradient.
        exploding: A clause that names the module whose initial weights make activations explode; None if none does.
        ended: The reason why the loop ended before `first_batch_after` was computed; None if it completed.
    """

    steps: tuple[Step, ...]
    first_batch_after: float | None
    without_gradient: tuple[str, ...]
    exploding: str | None = None
    ended: str | None = None


def train(
    model: nn.Module,
    batches: Iterator[Batch],
    stepper: Stepper,
    *,
    steps: int,
    full_logits: bool = False,
    fresh: bool = False,
    on_step: Callable[[Step], None] | None = None,
    on_partial: Callable[[TrainingResult], None] | None = None,
    share: RowShare | None = None,
) -> TrainingResult:
    """Train a model for a few steps.

    Args:
        model: A transformers causal language model; it returns a loss when given labels.
        batches: Batches of inputs, on the CPU.
        stepper: Runs backward and updates the parameters.
        steps: Number of steps.
        full_logits: Compute the logits of all tokens even if the model supports a chunked loss.
        fresh: Whether the weights are the initial ones; if so, search for a module that makes activations explode.
        on_step: Called after each step.
        on_partial: Called with the steps so far if the loop ends early.
        share: The part of each batch that this process computes, if several processes train the model. The gradients
            of the parts are averaged by the model.

    Raises:
        TrainingCheckError: A loss, a gradient, or the loss on the first batch after the last step is not finite. The
            message names the module. Parameters keep the values of the failed step, unless they are updated within
            backward.
    """
    device = next(model.parameters()).device
    model.train()
    done: list[Step] = []
    exploding: str | None = None
    first: tuple[dict[str, Tensor], RandomState] | None = None
    untouched = {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def keep(reason: str) -> None:
        if done and on_partial is not None:
            on_partial(TrainingResult(tuple(done), None, (), exploding, reason))

    with keep_partial(keep):
        for number in range(1, steps + 1):
            batch = next(batches)
            own = batch.inputs if share is None else share.inputs(batch.inputs)
            inputs = {name: tensor.to(device) for name, tensor in own.items()}
            if number == 1 and fresh:
                exploding = _eagerly(find_exploding_module, model, inputs)
            rng = RandomState.take(device)
            first = (inputs, rng) if number == 1 else first
            began = measure.begin(device)
            loss = loss_of(model, inputs, full_logits=full_logits)
            whole = loss if share is None else share.total(loss)
            failure = _Failure(model, inputs, rng, number, whole, share)
            if stepper.fused and not whole.isfinite():  # backward would update the weights
                raise failure.of_loss()
            norms = stepper.backward(loss if share is None else share.loss_of_part(loss))
            loss, norm = whole, total_norm(norms, device)
            if not (loss.isfinite() & norm.isfinite()):
                raise failure.error(norms if stepper.fused else None)
            stepper.optimizer_step()
            seconds = measure.now(device) - began
            untouched -= norms.keys()
            done.append(
                Step(
                    step=number,
                    loss=loss.item(),
                    grad_norm=norm.item(),
                    tokens=batch.tokens,
                    batch_utilization=batch.tokens / batch.inputs["input_ids"].numel(),
                    tokens_per_second=batch.tokens / max(seconds, 1e-9),
                    device_memory=measure.device_peak(device),
                    host_memory=measure.host_peak(),
                )
            )
            if on_step is not None:
                on_step(done[-1])
        after = _first_batch_loss(model, *first, full_logits=full_logits, share=share) if first else math.nan
    without_gradient = tuple(name for name, _ in model.named_parameters() if name in untouched)
    return TrainingResult(tuple(done), after, without_gradient, exploding)


def _first_batch_loss(
    model: nn.Module, inputs: dict[str, Tensor], rng: RandomState, *, full_logits: bool, share: RowShare | None
) -> float:
    rng.restore()
    # With gradients, as in a step: without them, torch.compile would compile the model again.
    loss = loss_of(model, inputs, full_logits=full_logits).detach()
    loss = loss if share is None else share.total(loss)
    if not loss.isfinite():
        problem = f"after the last step the loss on the first batch is {loss.item()}"
        raise _Failure(model, inputs, rng, 0, loss, share).diagnosed(problem, _SMALLER_LR)
    return loss.item()


def total_norm(norms: Norms, device: torch.device) -> Tensor:
    """Return the Euclidean norm of all gradients, from the norm of each parameter's.

    Args:
        norms: The norms, by name of the parameter.
        device: The device of the norm if there are no gradients.
    """
    # Sorted by name, not in the order of backward: fused and plain steps must give the same bits.
    ordered = [norms[name] for name in sorted(norms)]
    return torch.stack(ordered).norm() if ordered else torch.zeros((), device=device)


def non_finite_error(
    model: nn.Module,
    inputs: dict[str, Tensor],
    rng: RandomState,
    step: int,
    loss: Tensor,
    *,
    hint: str,
    share: RowShare | None = None,
) -> TrainingCheckError:
    """Return the error for a non-finite loss, or for a finite loss with non-finite gradients. It names the module.

    Args:
        model: The model.
        inputs: The batch.
        rng: The random state before its forward pass.
        step: The number of the step, from 1.
        loss: The loss of the batch, a scalar.
        hint: What to do if updates have made the values non-finite.
        share: The rows of this process, if the model is distributed: all processes call this function.
    """
    return _Failure(model, inputs, rng, step, loss, share, hint).error()


@dataclass(frozen=True)
class _Failure:
    """A step that may fail. Loss: a scalar, that of the whole batch."""

    model: nn.Module
    inputs: dict[str, Tensor]
    rng: RandomState
    step: int
    loss: Tensor
    share: RowShare | None
    hint: str = _SMALLER_LR

    def error(self, fused_norms: Norms | None = None) -> TrainingCheckError:
        """Return the error of the step, whose gradients were updated within backward if their norms are given."""
        if not self.loss.isfinite():
            return self.of_loss()
        if fused_norms is not None:  # in the order of backward
            first = next((name for name, norm in fused_norms.items() if not norm.isfinite()), None)
            problem = f"the gradient of {first or 'all parameters'} is the first non-finite gradient in backward"
            hint = f"{self.hint}, or remove --fuse-optim-with-backward to see which module produces it"
            return TrainingCheckError(f"step {self.step}: {problem}", hint=hint)
        return self.diagnosed(f"step {self.step}: a gradient is not finite", self.hint)

    def of_loss(self) -> TrainingCheckError:
        """Return the error of a loss that is not finite."""
        hint = self.hint if self.step > 1 else _CORRECT_THE_MODEL
        return self.diagnosed(f"step {self.step}: the loss is {self.loss.item()}", hint)

    def diagnosed(self, problem: str, hint: str) -> TrainingCheckError:
        """Return an error that names where values become non-finite."""
        reason = _eagerly(find_nonfinite, self.model, self.inputs, rng=self.rng, share=self.share)
        return TrainingCheckError(f"{problem}: {reason}", hint="try --dtype bfloat16" if FLOAT16 in reason else hint)


def _eagerly(find: Callable[..., Any], model: nn.Module, inputs: dict[str, Tensor], **kwargs: Any) -> Any:
    """Call a diagnostic function in eager mode: a compiled model does not call its modules."""
    with torch.compiler.set_stance("force_eager"):  # type: ignore[no-untyped-call]
        return find(model, inputs, **kwargs)
