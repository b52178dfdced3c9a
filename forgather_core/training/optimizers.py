"""How a training step ends: optimizers by name, stepped after the backward pass or within it."""

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
    """What takes a step for a model whose loss is given."""

    fused: bool  # whether parameters move within backward

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that hold the state of the parameters."""
        ...

    def backward(self, loss: Tensor) -> Norms:
        """Run backward.

        Returns:
            The norm of each parameter's gradient by name, a scalar in float32 at least; where there is none, no name.
        """
        ...

    def optimizer_step(self) -> None:
        """Move what backward has not moved."""
        ...


class _Closable:
    """A stepper as a context manager."""

    def close(self) -> None:
        """Detach from the model."""

    def __enter__(self) -> Self:
        """Return the stepper."""
        return self

    def __exit__(self, *_: object) -> None:
        """Detach from the model."""
        self.close()


class PlainStepper(_Closable):
    """Backward first, then the step.

    Args:
        model: Its parameters that require a gradient are moved.
        make: Makes their optimizer.
    """

    fused = False

    def __init__(self, model: nn.Module, make: MakeOptimizer) -> None:
        self.parameters = _trainable(model)
        self.optimizers = [make(self.parameters.values())]

    def backward(self, loss: Tensor) -> Norms:
        """Backward alone: gradients stay."""
        loss.backward()  # type: ignore[no-untyped-call]
        return {name: _norm(p.grad) for name, p in self.parameters.items() if p.grad is not None}

    def optimizer_step(self) -> None:
        """The step; gradients are freed."""
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()


class FusedStepper(_Closable):
    """Each parameter takes its step as soon as its gradient is there, which is then freed.

    At no time do all gradients exist. For an optimizer that looks at one parameter alone, the result is the plain one
    to the last bit. The arguments are those of `PlainStepper`.

    The steps are hooks of the parameters. `close()`, the end of a `with` block or the end of the stepper removes them.
    """

    fused = True

    def __init__(self, model: nn.Module, make: MakeOptimizer) -> None:
        self._norms: Norms = {}
        self.optimizers: list[torch.optim.Optimizer] = []
        handles: list[Any] = []
        # The hooks do not refer to the stepper: a parameter would keep it alive, and its own hooks with it.
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
        """Backward, in which the parameters step."""
        self._norms.clear()
        loss.backward()  # type: ignore[no-untyped-call]
        return dict(self._norms)

    def optimizer_step(self) -> None:
        """Nothing is left to move."""


def _fused_step(name: str, optimizer: torch.optim.Optimizer, norms: Norms) -> Callable[[Tensor], None]:
    def step(parameter: Tensor) -> None:
        assert parameter.grad is not None
        norms[name] = _norm(parameter.grad)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()


class BlockwiseAdam(torch.optim.Optimizer):
    """The state of 8-bit Adam (arXiv:2110.02861, sec. 2.1), as bitsandbytes lays it out; it moves nothing.

    Two moments of a byte a number, and a float32 scale for each block of 256; both moments in float32 for a parameter
    of fewer than 4096 numbers. For an estimate of memory: the step itself needs a GPU and that package.
    """

    block, smallest = 256, 4096

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make the state where there is none."""
        for parameter in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            if self.state[parameter]:
                continue
            small = parameter.numel() < self.smallest
            kind = torch.float32 if small else torch.uint8
            for moment in ("state1", "state2"):
                self.state[parameter][moment] = torch.zeros_like(parameter, dtype=kind)
                if not small:
                    blocks = -(-parameter.numel() // self.block)
                    scales = torch.zeros(blocks, dtype=torch.float32, device=parameter.device)
                    self.state[parameter][f"absmax_{moment}"] = scales


class NoOpOptimizer(torch.optim.Optimizer):
    """Moves nothing: gradients are computed and dropped."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing."""


def optimizer_of(name: str, device_type: str, *, lr: float = 0.01) -> MakeOptimizer:
    """What makes the optimizer of that name, in the implementation that torch takes by itself on such a device.

    Args:
        name: sgd, adamw, adamw_fused, adam8bit or none.
        device_type: `cpu`, `cuda`, ...; on CUDA torch works on all parameters at once, which needs a copy of them.
        lr: The learning rate of sgd, adamw and adamw_fused.
    """
    foreach = device_type == "cuda"
    makers: dict[str, MakeOptimizer] = {
        "sgd": partial(torch.optim.SGD, lr=lr, foreach=foreach),
        "adamw": partial(torch.optim.AdamW, lr=lr, foreach=foreach),
        "adamw_fused": partial(torch.optim.AdamW, lr=lr, fused=True),
        "adam8bit": BlockwiseAdam,
        "none": NoOpOptimizer,
    }
    return makers[name]


def state_tensors(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[Tensor]:
    """Every tensor that they keep from one step to the next."""
    for optimizer in optimizers:
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _norm(gradient: Tensor) -> Tensor:
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(gradient.detach(), dtype=dtype)
    return norm
