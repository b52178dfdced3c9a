"""Create optimizers by name, and step them after the backward pass or within it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

Norms = dict[str, Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Stepper(Protocol):
    """Run backward for a loss and update the parameters."""

    fused: bool  # whether parameters are updated within backward

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers, which hold the state of the parameters."""
        ...

    def backward(self, loss: Tensor) -> Norms:
        """Run backward.

        Returns:
            The norm of each parameter's gradient by name, a scalar in float32 or wider. A parameter without gradient is
            left out.
        """
        ...

    def optimizer_step(self) -> None:
        """Update the parameters that backward has not updated."""
        ...


class _ClosingMixin:
    """Make a stepper a context manager."""

    def close(self) -> None:
        """Detach from the model."""

    def __enter__(self) -> Self:
        """Return the stepper."""
        return self

    def __exit__(self, *_: object) -> None:
        """Detach from the model."""
        self.close()


class PlainStepper(_ClosingMixin):
    """Run backward, then step one optimizer for all parameters.

    Args:
        model: The model; its parameters that require a gradient are updated.
        make: A function that creates the optimizer of these parameters.
    """

    fused = False

    def __init__(self, model: nn.Module, make: MakeOptimizer) -> None:
        self.parameters = _trainable(model)
        self.optimizers = [make(self.parameters.values())]

    def backward(self, loss: Tensor) -> Norms:
        """Run backward and keep the gradients."""
        loss.backward()  # type: ignore[no-untyped-call]
        return {name: _norm(p.grad) for name, p in self.parameters.items() if p.grad is not None}

    def optimizer_step(self) -> None:
        """Update the parameters and free the gradients."""
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()


class FusedStepper(_ClosingMixin):
    """Update each parameter as soon as its gradient is computed, then free the gradient.

    The gradients never exist all at once. For an optimizer that treats each parameter separately, the result equals
    that of `PlainStepper` to the last bit. The arguments are those of `PlainStepper`.

    The updates are hooks on the parameters, removed by `close()`, at the end of a `with` block, or when the stepper is
    garbage-collected.
    """

    fused = True

    def __init__(self, model: nn.Module, make: MakeOptimizer) -> None:
        self._norms: Norms = {}
        self.optimizers: list[torch.optim.Optimizer] = []
        handles: list[Any] = []
        # The hooks do not refer to the stepper: a parameter would keep it, and so its own hooks, alive.
        self._finalizer = weakref.finalize(self, _remove, handles)
        self._finalizer.atexit = False
        try:
            for name, parameter in _trainable(model).items():
                self.optimizers.append(make([parameter]))
                hook = _fused_step(name, self.optimizers[-1], self._norms)
                handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the hooks from the parameters."""
        self._finalizer()

    def backward(self, loss: Tensor) -> Norms:
        """Run backward, which updates the parameters."""
        self._norms.clear()
        loss.backward()  # type: ignore[no-untyped-call]
        return dict(self._norms)

    def optimizer_step(self) -> None:
        """Do nothing: backward has updated all parameters."""


def _fused_step(name: str, optimizer: torch.optim.Optimizer, norms: Norms) -> Callable[[Tensor], None]:
    def step(parameter: Tensor) -> None:
        assert parameter.grad is not None
        norms[name] = _norm(parameter.grad)
        optimizer.step()
        optimizer.zero_grad()

    return step


def update_in_backward(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer update a parameter as soon as its gradient is computed, and free the gradient."""

    def step(_: Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()

    parameter.register_post_accumulate_grad_hook(step)  # type: ignore[no-untyped-call]


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()


class BlockwiseAdam(torch.optim.Optimizer):
    """Allocate the state of 8-bit Adam (arXiv:2110.02861, sec. 2.1) in bitsandbytes' layout; update nothing.

    Two moments of one byte per element, and a float32 scale per block of 256 elements; a parameter of fewer than 4096
    elements has both moments in float32. For estimates of memory: the real step requires a GPU and bitsandbytes.
    """

    block, smallest = 256, 4096

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Allocate the state of parameters that have none."""
        for parameter in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            if self.state[parameter]:
                continue
            local = getattr(parameter, "_local_tensor", parameter)  # this process's part of a sharded parameter
            small = local.numel() < self.smallest
            dtype = torch.float32 if small else torch.uint8
            for moment in ("state1", "state2"):
                self.state[parameter][moment] = torch.zeros_like(local, dtype=dtype)
                if not small:
                    blocks = -(-local.numel() // self.block)
                    scales = torch.zeros(blocks, dtype=torch.float32, device=local.device)
                    self.state[parameter][f"absmax_{moment}"] = scales


class NoOpOptimizer(torch.optim.Optimizer):
    """Update nothing: gradients are computed and dropped."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""


def optimizer_of(name: str, device_type: str, *, lr: float = 0.01, sharded: bool = False) -> MakeOptimizer:
    """Return a function that creates an optimizer, in the implementation that torch chooses for a device.

    Args:
        name: sgd, adamw, adamw_fused, adam8bit or none.
        device_type: `cpu`, `cuda`, ...; on CUDA, torch updates all parameters at once, with a temporary copy of them.
        lr: The learning rate of sgd, adamw and adamw_fused.
        sharded: Whether some parameters are sharded, which torch does not update together with others.
    """
    foreach = device_type == "cuda" and not sharded
    makers: dict[str, MakeOptimizer] = {
        "sgd": partial(torch.optim.SGD, lr=lr, foreach=foreach),
        "adamw": partial(torch.optim.AdamW, lr=lr, foreach=foreach),
        "adamw_fused": partial(torch.optim.AdamW, lr=lr, fused=True),
        "adam8bit": BlockwiseAdam,
        "none": NoOpOptimizer,
    }
    return makers[name]


def state_tensors(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[Tensor]:
    """Yield every tensor that the optimizers keep from one step to the next."""
    for optimizer in optimizers:
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _norm(gradient: Tensor) -> Tensor:
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    return _whole(torch.linalg.vector_norm(gradient.detach(), dtype=dtype))


def largest(gradient: Tensor) -> Tensor:
    """Return the largest absolute value of a gradient, a scalar."""
    return _whole(torch.linalg.vector_norm(gradient.detach(), ord=float("inf")))


def _whole(norm: Any) -> Tensor:
    """Return the norm over all parts of a sharded gradient."""
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole
