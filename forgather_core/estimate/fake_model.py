"""Run training steps and generations of a model on fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..model.tensor_slots import materialize
from ..parts.caches import CACHE as CACHE_NAME
from ..training.loss import loss_of
from ..training.optimizers import FusedStepper, PlainStepper, Stepper, optimizer_of, state_tensors
from .timeline import BUFFERS, CACHE, GRADIENTS, INPUTS, LOGITS, OPTIMIZER, WEIGHTS, Timeline
from .trace import Trace


@dataclass(frozen=True)
class TrainingStep:
    """Parameters of a training step.

    Args:
        optimizer: sgd, adamw, adamw_fused, adam8bit or none.
        fused: Update each parameter within backward, and free its gradient.
        full_logits: Compute the logits of all tokens even if the model supports a chunked loss.
        packed: Rows contain several documents, separated by the attention mask.
        autocast: Compute matrix products in bfloat16.
        device_type: Device type, by which torch chooses the implementation of an optimizer.
    """

    optimizer: str = "adamw"
    fused: bool = False
    full_logits: bool = False
    packed: bool = False
    autocast: bool = False
    device_type: str = "cpu"


class FakeModel:
    """A model on fake tensors; each run starts from the same state.

    Args:
        model: A causal language model on meta. Its parameters are replaced by fake CPU tensors.
        step: Parameters of the training step.
        axes: Of a distributed model, the axes of its mesh (see `Trace`).
    """

    def __init__(self, model: Any, step: TrainingStep, axes: Mapping[int, str] | None = None) -> None:
        self.model, self._training_step, self._axes = model, step, axes or {}
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._trace: Trace | None = None
        with self._fake:
            materialize(model, torch.device("cpu"))
            self._stepper = self._prepare(step)
        if model.base_model is not model:
            model.base_model.register_forward_hook(self._after_decoder)

    def train(self, rows: int, length: int) -> Timeline:
        """Trace a training step after the first: the optimizer state exists.

        Args:
            rows: Batch size.
            length: Tokens per row, without padding.
        """
        return self._traced(lambda: self._train(rows, length))

    def _traced(self, run: Callable[[], Timeline]) -> Timeline:
        """Return a timeline. The first run of a distributed model registers hooks and propagates shapes: discard it."""
        if self._axes:
            run()
        return run()

    def _train(self, rows: int, length: int) -> Timeline:
        self.model.train()
        held = self._held() | {OPTIMIZER: state_tensors(self._stepper.optimizers)}
        step = self._training_step
        # The caller may have disabled gradients.
        with torch.enable_grad(), self._fake, self._tracing(held, length, packed=step.packed) as trace:
            trace.begin("forward")
            with trace.allocating(INPUTS):
                batch = torch.zeros(rows, length, dtype=torch.int64)
                inputs = {"input_ids": batch, "labels": batch}
                if step.packed:
                    inputs["position_ids"] = torch.zeros_like(batch)
            with torch.autocast("cpu", torch.bfloat16) if step.autocast else nullcontext():
                loss = loss_of(self.model, inputs, full_logits=step.full_logits)
            trace.begin("backward")
            self._stepper.backward(loss)
            self._stepper.optimizer_step()
            return trace.timeline()

    def forward(self, rows: int, length: int) -> Timeline:
        """Trace a forward pass that computes the logits of all tokens. The arguments are those of `train`."""
        return self._traced(lambda: self._forward(rows, length))

    def _forward(self, rows: int, length: int) -> Timeline:
        self.model.train()
        with torch.no_grad(), self._fake, self._tracing(self._held(), length) as trace:
            trace.begin("forward")
            self.model(input_ids=torch.zeros(rows, length, dtype=torch.int64), use_cache=False)
            return trace.timeline()

    def generate(self, rows: int, length: int, make_cache: Callable[[], Any] | None = None) -> Timeline:
        """Trace a prefill of all tokens except the last, and the decoding step of the last token.

        Args:
            rows: Batch size.
            length: Tokens per row after the step, at least 2.
            make_cache: Creates the cache; None uses the model's default.
        """
        return self._traced(lambda: self._generate(rows, length, make_cache))

    def _generate(self, rows: int, length: int, make_cache: Callable[[], Any] | None) -> Timeline:
        self.model.eval()
        with self._fake, torch.no_grad(), self._tracing(self._held(), length) as trace:
            trace.begin("prefill")
            tokens = torch.zeros(rows, length - 1, dtype=torch.int64)
            options = {"use_cache": True, "logits_to_keep": 1}
            caches = {CACHE_NAME: make_cache()} if make_cache is not None else {}
            out = self.model(input_ids=tokens, **caches, **options)
            cache = out[CACHE_NAME]
            del out, caches
            self._mark_cache(trace, cache)
            trace.begin("decode")
            out = self.model(input_ids=tokens[:, -1:], **{CACHE_NAME: cache}, **options)
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

    def _prepare(self, step: TrainingStep) -> Stepper:
        """Return a stepper whose optimizers have the state of a first step."""
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # registered before the hooks of the stepper, which free the gradient
                parameter.register_post_accumulate_grad_hook(self._mark_gradient)
        stepper_class = FusedStepper if step.fused else PlainStepper
        make = optimizer_of(step.optimizer, step.device_type, sharded=bool(self._axes))
        stepper: Stepper = stepper_class(self.model, make)
        for optimizer in stepper.optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            if not step.fused:
                optimizer.register_step_pre_hook(self._begin_update)
        return stepper

    @contextmanager
    def _tracing(self, held: dict[str, Any], length: int, *, packed: bool = False) -> Iterator[Trace]:
        for module in self.model.modules():
            if hasattr(module, "reshard"):
                module.reshard()  # FSDP keeps the last gathered weights after a forward pass
        self._trace = Trace(held, length, packed=packed, axes=self._axes)
        try:
            with self._trace.following_resizes(), self._trace:
                yield self._trace
        finally:
            self._trace = None

    def _mark_gradient(self, parameter: Tensor) -> None:
        if self._trace is not None and parameter.grad is not None:
            self._trace.mark(parameter.grad, GRADIENTS)

    def _begin_update(self, *_: Any) -> None:
        if self._trace is not None:
            self._trace.begin("update")
            self._trace.kind = OPTIMIZER

    def _after_decoder(self, _: nn.Module, __: Any, output: Any) -> None:
        """Count everything allocated from the last hidden states until their gradient as logits and loss."""
        trace, hidden_states = self._trace, output[0]
        if trace is None:
            return
        kind, trace.kind = trace.kind, LOGITS

        def leave(_: Tensor) -> None:
            trace.kind = kind

        if hidden_states.requires_grad:
            hidden_states.register_hook(leave)
