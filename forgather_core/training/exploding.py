"""Find the module of a freshly initialized model that makes activations large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any

import torch
from torch import nn

from ..runtime.out_of_memory import out_of_memory
from .module_calls import ModuleCall, preserved_state, watch_module_calls
from .tensor_values import largest_rms

# The RMS of activations in a network that trains stays near 1: initial weights preserve it, and norms restore it even
# for the smallest inputs. Logits of RMS 10 put the loss 50 nats above ln(vocabulary).
LARGE_RMS = 10.0
# A layer of n inputs with weights of standard deviation s multiplies RMS by s sqrt(n): 1 where variance is kept, 0.6
# with torch's initialization, 2.6 for the usual s = 0.02 at n = 16384. Ten is above all of them.
LARGE_GAIN = 10.0


def find_exploding_module(model: nn.Module, inputs: Mapping[str, Any]) -> str | None:
    """Find the first module that makes activations large.

    Args:
        model: A freshly initialized model; its state is preserved.
        inputs: Its keyword arguments, on its device.

    Returns:
        A clause about the first module with parameters of its own whose output has an RMS above `LARGE_RMS` and above
        `LARGE_GAIN` times the RMS of its input. For a module without floating-point input, such as an embedding, only
        `LARGE_RMS` applies. None if there is no such module.
    """
    problems: list[str] = []

    def leave(call: ModuleCall, args: Any, kwargs: Any, output: Any) -> None:
        if problems or next(call.module.parameters(recurse=False), None) is None:
            return
        before, after = largest_rms(args) or largest_rms(kwargs), largest_rms(output)
        if not isfinite(after) or after <= LARGE_RMS or after <= LARGE_GAIN * before:
            return
        values = f"{_number(after)}; {_weight_std(call.module)}"
        if before:
            factor = _number(after / before)
            problems.append(f"{call} multiplies its input {factor}-fold (RMS {_number(before)} -> {values})")
        else:
            problems.append(f"{call} outputs large values (RMS {values})")

    # Without labels: given labels, a model may compute its loss without calling its head. The full logits may not fit
    # into memory; then only the modules before the head are examined.
    unlabeled = {name: value for name, value in inputs.items() if "labels" not in name}
    watched = watch_module_calls(model, lambda call, args: None, leave)
    with preserved_state(model, None), torch.no_grad(), watched, _stop_when_out_of_memory():
        model(**unlabeled, use_cache=False)
    return problems[0] if problems else None


@contextmanager
def _stop_when_out_of_memory() -> Iterator[None]:
    """End the block without an error when memory runs out."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise


def _weight_std(module: nn.Module) -> str:
    name, weight = max(module.named_parameters(recurse=False), key=lambda named: named[1].numel())
    local = getattr(weight, "to_local", lambda: weight)()  # of a sharded weight, this process's part
    return f"{name} std {_number(float(local.detach().float().std(correction=0)))}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
