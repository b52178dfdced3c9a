"""Find where a loss or a gradient becomes non-finite: repeat the pass with the same random numbers, and observe it.

Module calls are observed from outside (`module_calls.py`), gradients by hooks on the nodes of one graph. Gradients are
computed by `torch.autograd.grad`: nothing is accumulated, and an optimizer that steps within backward takes no step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks

from ..data.batches import IGNORE_INDEX
from ..errors import first_line
from .module_calls import ModuleCall, preserved_state, watch_module_calls
from .random_state import RandomState
from .row_share import RowShare
from .tensor_values import has_float16, largest_rms, nested_tensors, nonfinite_tensor, nonfinite_value

Inputs = Mapping[str, Any]

# Backward nodes that divide by a value that may be 0.
SINGULAR_AT_ZERO = (
    "Sqrt", "Rsqrt", "Pow", "Norm", "LinalgVectorNorm", "Log", "Div", "Reciprocal", "Cdist", "EuclideanDist",
)  # fmt: skip
FLOAT16 = "float16 overflows above 65504"


def find_nonfinite(model: nn.Module, inputs: Inputs, *, rng: RandomState | None, share: RowShare | None = None) -> str:
    """Find where values become non-finite in a pass that failed.

    Forward and backward run with the current weights. If they have been updated since the failure, the pass may be
    finite. The state of the model, including its buffers and gradients, is preserved.

    Args:
        model: A model that returns a loss when given labels.
        inputs: Its keyword arguments, on its device.
        rng: The random state at the start of the failed pass; None if the pass used no random numbers.
        share: The rows of this process, if the model is distributed: all processes call this function. Only forward is
            repeated: FSDP replaces its parameters in backward.

    Returns:
        A clause for an error message. It names the first of these that applies: the innermost module with finite inputs
        and a non-finite output; the problem with the loss; the module whose backward produces a non-finite gradient;
        the first parameter with a non-finite gradient.
    """
    try:
        with preserved_state(model, rng):
            failure = _forward_failure(model, inputs)
        if share is not None:
            return share.first_finding(failure) or "forward is finite; backward is not examined over several processes"
        if failure is None:
            with preserved_state(model, rng):
                failure = _backward_failure(model, inputs)
    except RuntimeError as error:  # out of memory without checkpointing, or torch.autograd.grad is not supported
        return f"the diagnostic pass failed: {first_line(error)}"
    return failure or "a second pass over the same batch is finite throughout: the failure is not reproducible"


def _forward_failure(model: nn.Module, inputs: Inputs) -> str | None:
    calls: list[ModuleCall] = []  # in the order in which they end: inner calls before the outer ones

    def enter(call: ModuleCall, args: Any) -> None:
        call.bad_input = nonfinite_value(args)  # now, because the module may overwrite its input

    def leave(call: ModuleCall, args: Any, kwargs: Any, output: Any) -> None:
        call.bad_input = call.bad_input or nonfinite_value(kwargs)
        call.bad_output, call.float16_output = nonfinite_value(output), has_float16(output)
        calls.append(call)

    # With gradients, as in training, but without their memory: nothing is saved for backward.
    with torch.enable_grad(), saved_tensors_hooks(lambda _: None, lambda _: torch.empty(0)):
        with watch_module_calls(model, enter, leave):
            loss = _loss_of(model(**inputs, use_cache=False))
        if nonfinite_value(loss, strict=True) is None:
            return None
    failed = [call for call in calls if call.bad_output is not None]
    if not any(call.caller for call in failed):
        return f"every module's output is finite, but the loss is not: {_loss_failure(model, inputs)}"
    origin = next((call for call in failed if call.bad_input is None), None)
    if origin is None:
        first = failed[0]
        return f"{first} is the first module with a non-finite output ({first.bad_output}); its input is non-finite too"
    problem = f"{origin} is the first module with finite input and non-finite output ({origin.bad_output})"
    own = chain(origin.module.named_parameters(recurse=False), origin.module.named_buffers(recurse=False))
    if cause := nonfinite_tensor(own):
        return f"{problem}: its {cause}"
    detail = ""
    if origin is not failed[0] and failed[0].is_within(origin):
        detail = f": its own code passes a non-finite value to {failed[0]}"
    elif any(call.caller is origin for call in calls):
        detail = ": its own code produces this value, after its submodules"
    return f"{problem}{detail}{f'; {FLOAT16}' if origin.float16_output else ''}"


def _loss_failure(model: nn.Module, inputs: Inputs) -> str:
    labels, shifted = inputs.get("labels"), inputs.get("shift_labels")
    targets = shifted if shifted is not None else labels[..., 1:] if labels is not None else None
    if targets is not None and not (targets != IGNORE_INDEX).any():
        return f"the batch has no targets, every label is {IGNORE_INDEX}"
    if problem := nonfinite_tensor(model.named_parameters()):  # a parameter that is used outside its module's forward
        return problem
    float16 = any(parameter.dtype == torch.float16 for parameter in model.parameters())
    return f"the batch has targets, and every weight is finite{f'; {FLOAT16}' if float16 else ''}"


def _backward_failure(model: nn.Module, inputs: Inputs) -> str | None:
    ends: list[tuple[ModuleCall | None, list[Node]]] = []  # calls and the last nodes of their own code, as executed
    input_nodes: dict[ModuleCall, list[Node]] = {}

    def enter(call: ModuleCall, args: Any) -> None:
        input_nodes[call] = _grad_nodes(args)
        ends.append((call.caller, input_nodes[call]))

    def leave(call: ModuleCall, args: Any, kwargs: Any, output: Any) -> None:
        input_nodes[call] += _grad_nodes(kwargs)  # torch passes keyword arguments to this hook alone
        ends.append((call, _grad_nodes(output)))

    produced: list[_BadGradient] = []  # non-finite gradients made from finite ones, in the order of backward
    received: list[ModuleCall] = []  # calls that received a non-finite gradient
    with torch.enable_grad():
        with watch_module_calls(model, enter, leave):
            loss = _loss_of(model(**inputs, use_cache=False))
        for node, call in _node_owners(ends).items():
            node.register_hook(_gradient_hook(call, node.name(), produced, received))
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    present = {name: gradient for name, gradient in zip(named, gradients, strict=True) if gradient is not None}
    failed = [name for name, gradient in present.items() if nonfinite_value(gradient, strict=True)]
    if not failed:
        large = [name for name, gradient in present.items() if not isfinite(largest_rms(gradient))]
        return f"every gradient is finite, but the norm of the gradient of {large[-1]} overflows" if large else None
    if produced:
        return str(produced[0])
    if received:
        return f"the sum of the finite gradients that reach {received[0]} is the first non-finite gradient in backward"
    return f"the gradient of {failed[-1]} is the first non-finite gradient in backward"  # backward starts at the last


def _grad_nodes(values: Any) -> list[Node]:
    return [tensor.grad_fn for tensor in nested_tensors(values) if tensor.grad_fn is not None]


def _node_owners(ends: Iterable[tuple[ModuleCall | None, list[Node]]]) -> dict[Node, ModuleCall]:
    """Return the call whose own code created each node: the first call to end after it, which is the innermost one."""
    owners: dict[Node, ModuleCall] = {}
    for call, nodes in ends:
        while call is not None and nodes:
            node = nodes.pop()
            if node in owners or hasattr(node, "variable"):  # the node of a leaf outlives the pass
                continue
            owners[node] = call
            nodes += [before for before, _ in node.next_functions if before is not None]
    return owners


@dataclass(frozen=True)
class _BadGradient:
    """A non-finite gradient that a backward node made from finite ones."""

    call: ModuleCall
    node: str
    value: str
    float16: bool

    def __str__(self) -> str:
        kind = self.node.rpartition("::")[2]
        singular = kind.partition("Backward")[0] in SINGULAR_AT_ZERO
        cause = ", which has no finite gradient at 0" if singular else f"; {FLOAT16}" if self.float16 else ""
        problem = f"{self.call} is the first module in backward that turns finite gradients into a non-finite one"
        return f"{problem} ({self.value}, in {kind}{cause})"


def _gradient_hook(
    call: ModuleCall, node: str, produced: list[_BadGradient], received: list[ModuleCall]
) -> Callable[[Any, Any], None]:
    """Return a hook that records the non-finite gradients of a node. A reference to the node would be a cycle."""

    def record(input_gradients: Any, output_gradients: Any) -> None:
        if produced:
            return
        if nonfinite_value(output_gradients, strict=True):
            received.append(call)
        elif kind := nonfinite_value(input_gradients, strict=True):
            produced.append(_BadGradient(call, node, kind, has_float16(input_gradients)))

    return record


def _loss_of(output: Any) -> Tensor:
    loss: Tensor = output[0] if isinstance(output, tuple) else output["loss"] if type(output) is dict else output.loss
    return loss
