"""SGD, stepped after the backward pass or within it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

Norms = dict[str, Tensor]


class Stepper(Protocol):
    """What takes a step for a model whose loss is given."""

    def step(self, loss: Tensor) -> Norms:
        """Run backward, and move the parameters.

        Returns:
            The norm of each parameter's gradient, a float32 scalar, by name; a parameter without one is not in it.
        """
        ...


class PlainSGD:
    """Backward first, then the step."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        self.parameters = _trainable(model)
        self.optimizer = torch.optim.SGD(self.parameters.values(), lr=lr)

    def step(self, loss: Tensor) -> Norms:
        """Backward, step, and gradients freed."""
        loss.backward()  # type: ignore[no-untyped-call]
        norms = {name: _norm(p.grad) for name, p in self.parameters.items() if p.grad is not None}
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norms


class FusedSGD:
    """Each parameter takes its step as soon as its gradient is there, which is then freed.

    At no time do all gradients exist. SGD looks at one parameter alone, so the result is the plain one to the last bit.
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        self._norms: Norms = {}
        for name, parameter in _trainable(model).items():
            hook = self._hook(name, torch.optim.SGD([parameter], lr=lr))
            parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def _hook(self, name: str, optimizer: torch.optim.SGD) -> Callable[[Tensor], None]:
        def step(parameter: Tensor) -> None:
            assert parameter.grad is not None
            self._norms[name] = _norm(parameter.grad)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def step(self, loss: Tensor) -> Norms:
        """Backward, in which the parameters step."""
        self._norms.clear()
        loss.backward()  # type: ignore[no-untyped-call]
        return dict(self._norms)


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _norm(gradient: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32)
    return norm
