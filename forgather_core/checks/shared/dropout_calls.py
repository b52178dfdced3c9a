"""Record the calls of dropout functions in a forward pass, with the module and the layer that make them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .layers import layers_of

# Functions of (input, p, training); native_dropout, which also returns its mask, is among their implementations.
_DROPOUTS = {
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    torch.dropout,
    torch.dropout_,
    torch.feature_dropout,
    torch.feature_dropout_,
}
_SDPA = functional.scaled_dot_product_attention


@dataclass(frozen=True)
class DropoutCall:
    """A call of a dropout function, or of scaled_dot_product_attention.

    Args:
        module: The name of the innermost module that makes the call.
        layer: The index of its layer; None outside of the layers.
        before, after: Input and output; None for scaled_dot_product_attention.
        dropout_p: The argument of scaled_dot_product_attention; None for dropout functions.
    """

    module: str
    layer: int | None
    before: Tensor | None = None
    after: Tensor | None = None
    dropout_p: float | None = None

    @property
    def where(self) -> str:
        """Return the module, as failures name it."""
        return self.module or "outside of all modules"

    @property
    def drops(self) -> bool:
        """Return whether the call changes its input."""
        if self.before is None or self.after is None:
            return bool(self.dropout_p)
        return self.before.shape != self.after.shape or not torch.equal(self.before, self.after)


class _Recorder(TorchFunctionMode):
    def __init__(self, names: list[str], layers: dict[str, int], *, identity: bool) -> None:
        super().__init__()
        self.calls: list[DropoutCall] = []
        self.names, self.layers, self.identity = names, layers, identity

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is _SDPA:
            self._add(dropout_p=float(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)))
            if self.identity and len(args) > 4:
                args = (*args[:4], 0.0, *args[5:])
            elif self.identity:
                kwargs["dropout_p"] = 0.0
            return func(*args, **kwargs)
        if func not in _DROPOUTS:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        before = x.detach().clone()  # the call may change it in place
        result = x if self.identity else func(*args, **kwargs)
        self._add(before=before, after=result.detach().clone())
        return result

    def _add(self, **facts: Any) -> None:
        layer = next((self.layers[name] for name in reversed(self.names) if name in self.layers), None)
        self.calls.append(DropoutCall(self.names[-1] if self.names else "", layer, **facts))


@contextmanager
def recorded_dropout(model: Any, *, identity: bool = False) -> Iterator[list[DropoutCall]]:
    """Record the dropout calls of a model; the list grows as they are made.

    Args:
        model: The model.
        identity: Make every dropout function return its input.

    Raises:
        DoesNotApply: The model has no list of layers.
    """
    numbers = {layer: index for index, layer in enumerate(layers_of(model))}
    names: list[str] = []  # the modules that run, the innermost last
    layers: dict[str, int] = {}
    hooks = []

    def enter(name: str) -> Any:
        return lambda *_: names.append(name)

    def leave(*_: Any) -> None:
        names.pop()

    for name, module in model.named_modules():
        if module in numbers:
            layers[name] = numbers[module]
        hooks += _hooks(module, enter(name), leave)
    recorder = _Recorder(names, layers, identity=identity)
    try:
        with recorder:
            yield recorder.calls
    finally:
        for hook in hooks:
            hook.remove()


def _hooks(module: nn.Module, enter: Any, leave: Any) -> list[Any]:
    return [
        module.register_forward_pre_hook(enter, prepend=True),
        module.register_forward_hook(leave, always_call=True),
    ]
