"""A model without memory, and what can be tried on it: a training step, a generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..model.tensor_slots import materialise
from ..parts.caches import CACHE as CACHE_NAME
from ..training.loss import loss_of
from ..training.optimizers import FusedStepper, PlainStepper, Stepper, optimizer_of, state_tensors
from .timeline import BUFFERS, CACHE, GRADIENTS, INPUTS, LOGITS, OPTIMIZER, WEIGHTS, Timeline
from .trace import Trace


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Args:
        optimizer: sgd, adamw, adamw_fused, adam8bit or none.
        fused: Each parameter takes its step within backward, and its gradient is freed.
        keep_logits: The logits of all tokens are computed, where the model can do without.
        packed: Rows hold several documents, which a mask keeps apart.
        autocast: Products in bfloat16, weights as they are.
        device_type: Where it is trained: torch chooses an optimizer's implementation by it.
    """

    optimizer: str = "adamw"
    fused: bool = False
    keep_logits: bool = False
    packed: bool = False
    autocast: bool = False
    device_type: str = "cpu"


class Stage:
    """Tries a model; each try starts from the same state.

    Args:
        model: A causal language model on meta. It is changed: its parameters become fake ones of the CPU.
        training: How it is trained.
    """

    def __init__(self, model: Any, training: Training) -> None:
        self.model, self._how = model, training
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._trace: Trace | None = None
        with self._fake:
            materialise(model, torch.device("cpu"))
            self._stepper = self._prepare(training)
        if model.base_model is not model:
            model.base_model.register_forward_hook(self._leave_decoder)

    def train(self, rows: int, length: int) -> Timeline:
        """One step, not the first: the optimizer has its state already.

        Args:
            rows: Of the batch.
            length: Tokens in each, none of them padding.
        """
        self.model.train()
        held, how = self._held() | {OPTIMIZER: state_tensors(self._stepper.optimizers)}, self._how
        # Gradients whatever the caller has set.
        with torch.enable_grad(), self._fake, self._tracing(held, length, packed=how.packed) as trace:
            trace.begin("forward")
            with trace.making(INPUTS):
                batch = torch.zeros(rows, length, dtype=torch.int64)
                inputs = {"input_ids": batch, "labels": batch}
                if how.packed:
                    inputs["position_ids"] = torch.zeros_like(batch)
            with torch.autocast("cpu", torch.bfloat16) if how.autocast else nullcontext():
                loss = loss_of(self.model, inputs, keep_logits=how.keep_logits)
            trace.begin("backward")
            self._stepper.backward(loss)
            self._stepper.optimizer_step()
            return trace.timeline()

    def forward(self, rows: int, length: int) -> Timeline:
        """A forward pass alone, which gives the logits of all tokens. The arguments are those of `train`."""
        self.model.train()
        with torch.no_grad(), self._fake, self._tracing(self._held(), length) as trace:
            trace.begin("forward")
            self.model(input_ids=torch.zeros(rows, length, dtype=torch.int64), use_cache=False)
            return trace.timeline()

    def generate(self, rows: int, length: int, make_cache: Callable[[], Any] | None = None) -> Timeline:
        """A prefill of all tokens but one, and the step of that one; the cache stays.

        Args:
            rows: Of the batch.
            length: Tokens in each when the program ends, 2 at least.
            make_cache: Makes the cache; None leaves that to the model.
        """
        self.model.eval()
        with self._fake, torch.no_grad(), self._tracing(self._held(), length) as trace:
            trace.begin("prefill")
            tokens = torch.zeros(rows, length - 1, dtype=torch.int64)
            how = {"use_cache": True, "logits_to_keep": 1}
            given = {CACHE_NAME: make_cache()} if make_cache is not None else {}
            out = self.model(input_ids=tokens, **given, **how)
            cache = out[CACHE_NAME]
            del out, given
            self._mark_cache(trace, cache)
            trace.begin("decode")
            out = self.model(input_ids=tokens[:, -1:], **{CACHE_NAME: cache}, **how)
            del out
            self._mark_cache(trace, cache)
            return trace.timeline()

    @staticmethod
    def _mark_cache(trace: Trace, cache: Any) -> None:
        for layer in cache.layers:
            for value in vars(layer).values():
                if isinstance(value, Tensor):
                    trace.mark(value, CACHE)

    def _held(self) -> dict[str, Any]:
        return {WEIGHTS: self.model.parameters(), BUFFERS: self.model.buffers()}

    def _prepare(self, training: Training) -> Stepper:
        """The stepper, its optimizers with the state that they have after a first step."""
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # before any hook of the stepper, which frees the gradient
                parameter.register_post_accumulate_grad_hook(self._mark_gradient)
        take = FusedStepper if training.fused else PlainStepper
        stepper: Stepper = take(self.model, optimizer_of(training.optimizer, training.device_type))
        for optimizer in stepper.optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            if not training.fused:
                optimizer.register_step_pre_hook(self._enter_update)
        return stepper

    @contextmanager
    def _tracing(self, held: dict[str, Any], length: int, *, packed: bool = False) -> Iterator[Trace]:
        self._trace = Trace(held, length, packed=packed)
        try:
            with self._trace:
                yield self._trace
        finally:
            self._trace = None

    def _mark_gradient(self, parameter: Tensor) -> None:
        if self._trace is not None and parameter.grad is not None:
            self._trace.mark(parameter.grad, GRADIENTS)

    def _enter_update(self, *_: Any) -> None:
        if self._trace is not None:
            self._trace.begin("update")
            self._trace.kind = OPTIMIZER

    def _leave_decoder(self, _: nn.Module, __: Any, output: Any) -> None:
        """From the last hidden states to their gradient, all that is made belongs to logits and loss."""
        trace, hidden_states = self._trace, output[0]
        if trace is None:
            return
        kind, trace.kind = trace.kind, LOGITS

        def leave(_: Tensor) -> None:
            trace.kind = kind

        if hidden_states.requires_grad:
            hidden_states.register_hook(leave)
