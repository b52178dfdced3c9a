"""Observe every module call of a pass without a hook on any single module, and preserve the state of the model.

torch's hooks for all modules see the calls and are removed after the pass. A hook on a single module could change the
result: some models take another code path around hooked modules (`CausalLM` does for its head).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from .random_state import RandomState


@dataclass(eq=False)
class ModuleCall:
    """One call of a module.

    Args:
        name: The module's name in the model; empty for the model itself.
        module: The module.
        caller: The call that contains this one.
        bad_input: Kind of non-finite value in the input (`NaN`, `inf`, `-inf`); None if all values are finite.
        bad_output: Kind of non-finite value in the output; None if all values are finite.
        float16_output: Whether the output contains a float16 tensor.
    """

    name: str
    module: nn.Module
    caller: ModuleCall | None
    bad_input: str | None = None
    bad_output: str | None = None
    float16_output: bool = False

    def __str__(self) -> str:
        return self.name or f"{type(self.module).__name__} itself"

    def is_within(self, other: ModuleCall) -> bool:
        """Return whether another call contains this one."""
        caller = self.caller
        while caller is not None and caller is not other:
            caller = caller.caller
        return caller is other


EnterCall = Callable[[ModuleCall, Any], None]
LeaveCall = Callable[[ModuleCall, Any, Any, Any], None]


@contextmanager
def watch_module_calls(model: nn.Module, enter: EnterCall, leave: LeaveCall) -> Iterator[None]:
    """Call `enter(call, args)` before and `leave(call, args, kwargs, output)` after each module call of the model."""
    names = {id(module): name for name, module in model.named_modules()}
    running: list[ModuleCall] = []

    def before(module: nn.Module, args: Any) -> None:
        if id(module) in names:
            running.append(ModuleCall(names[id(module)], module, running[-1] if running else None))
            enter(running[-1], args)

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if id(module) in names:
            while (call := running.pop()).module is not module:
                pass  # this call raised, and the model caught it
            leave(call, args, kwargs, output)

    handles = [register_module_forward_pre_hook(before), register_module_forward_hook(after, with_kwargs=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def preserved_state(model: nn.Module, rng: RandomState | None) -> Iterator[None]:
    """Run a pass without gradient checkpointing, then restore buffers, random numbers and checkpointing.

    Args:
        model: The model.
        rng: The random state in which the pass starts; None keeps the current one.
    """
    current = RandomState.take(next(model.parameters()).device)
    buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    copies: dict[int, Tensor] = {}
    # transformers switches checkpointing of a layer by this attribute.
    checkpointing = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]
    try:
        for module in checkpointing:
            module.gradient_checkpointing = False  # type: ignore[assignment]
        # The pass uses copies: a graph that is still to be differentiated may hold the original buffers.
        for module, own in buffers:
            for name, buffer in own.items():
                if buffer is not None:
                    module._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
        if rng is not None:
            rng.restore()
        yield
    finally:
        for module in checkpointing:
            module.gradient_checkpointing = True  # type: ignore[assignment]
        for module, own in buffers:
            module._buffers.clear()
            module._buffers.update(own)
        current.restore()
