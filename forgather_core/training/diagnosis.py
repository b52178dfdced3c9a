"""Where a model fails: a second pass over the same batch, from the same random numbers, that is watched.

Neither a module nor a parameter is hooked: torch's hooks for all modules see the calls, hooks on the nodes of one graph
see the gradients, and both are gone with the pass. A hook on a module would change what is looked at, where a model
goes another way around hooked ones (`CausalLM` does at its head). Backward hands its gradients to us: nothing is
accumulated, and no optimizer that waits for a gradient takes a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from itertools import chain
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ..data.batches import IGNORE
from ..errors import first_line
from ..runtime.out_of_memory import out_of_memory

Inputs = Mapping[str, Any]

# Numbers in a network that trains stay near 1: initial weights keep that size, and norms give it, even to the smallest
# numbers. As logits, numbers of RMS 10 put the loss 50 nats above ln(vocabulary).
LARGE_RMS = 10.0
# A layer of n inputs with weights of standard deviation s multiplies RMS by s sqrt(n): 1 where variance is kept, 0.6 as
# torch initialises, 2.6 for the customary s = 0.02 at n = 16384. Ten is beyond all of them.
LARGE_GAIN = 10.0
# Nodes of backward that divide by what may be 0.
STEEP = ("Sqrt", "Rsqrt", "Pow", "Norm", "LinalgVectorNorm", "Log", "Div", "Reciprocal", "Cdist", "EuclideanDist")
OF_HALF = "; float16 ends at 65504: try --dtype bfloat16"


@dataclass(frozen=True)
class RandomState:
    """Where torch's generators stand, of the CPU and of a device, so that dropout can repeat itself.

    Args:
        device: The device, whose generator is the default one.
        cpu: State of the CPU's generator.
        other: State of the device's, where it is another.
    """

    device: torch.device
    cpu: Tensor
    other: Tensor | None

    @classmethod
    def take(cls, device: torch.device) -> RandomState:
        """Where they stand now."""
        other = None
        if device.type == "cuda":
            other = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            other = torch.mps.get_rng_state()
        return cls(device, torch.get_rng_state(), other)

    def restore(self) -> None:
        """Set them back; can be done any number of times."""
        torch.set_rng_state(self.cpu)
        if self.other is None:
            return
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.other, self.device)
        else:
            torch.mps.set_rng_state(self.other)


def first_not_finite(model: nn.Module, inputs: Inputs, *, rng: RandomState | None) -> str:
    """Find where numbers cease to be finite in a pass that failed.

    Both passes, forward and then backward, run with the weights that are there: after a step whose gradients were not
    finite, these are no longer the ones that failed. The model is left as it was found, its buffers and gradients too.

    Args:
        model: Given labels, it returns a loss.
        inputs: Its keyword arguments, on its device.
        rng: The random numbers that the pass began with; None if none were drawn.

    Returns:
        One sentence. It names the innermost module whose output is not finite while its inputs are; where all are
        finite, what is wrong with the loss; where that is finite too, the module whose backward makes a gradient that
        is not, or else the first such parameter.
    """
    try:
        with _as_found(model, rng):
            found = _fault_of_forward(model, inputs)
        if found is None:
            with _as_found(model, rng):
                found = _fault_of_backward(model, inputs)
    except RuntimeError as error:  # no memory without checkpointing, or a model that cannot be differentiated so
        return f"a second pass, to find where that began, fails: {first_line(error)}"
    return found or "a second pass over the same batch is finite throughout, so that the failure does not repeat itself"


def exploding(model: nn.Module, inputs: Inputs) -> str | None:
    """Find what makes numbers large in a model that was just initialised.

    Args:
        model: It is left as it was found.
        inputs: Its keyword arguments, on its device.

    Returns:
        One sentence about the first module with parameters of its own whose output has an RMS above `LARGE_RMS` and
        `LARGE_GAIN` times its input's, or above `LARGE_RMS` where it has no numbers as input, as an embedding; or None.
    """
    found: list[str] = []

    def leave(call: _Call, args: Any, kwargs: Any, output: Any) -> None:
        if found or next(call.module.parameters(recurse=False), None) is None:
            return
        before, after = _rms(args) or _rms(kwargs), _rms(output)
        if not isfinite(after) or after <= LARGE_RMS or after <= LARGE_GAIN * before:
            return
        numbers = f"{_number(after)}; {_spread(call.module)}"
        if before:
            factor = _number(after / before)
            found.append(f"{call} multiplies its input {factor}-fold (RMS {_number(before)} -> {numbers})")
        else:
            found.append(f"{call} gives out large numbers (RMS {numbers})")

    # Without labels: with them a model may compute its loss past its head. All logits may be more than there is room
    # for; then what is large before them is told, or nothing.
    given = {name: value for name, value in inputs.items() if "labels" not in name}
    watched = _watched(model, lambda call, args: None, leave)
    with _as_found(model, None), torch.no_grad(), watched, _enough_memory():
        model(**given, use_cache=False)
    return found[0] if found else None


@contextmanager
def _enough_memory() -> Iterator[None]:
    """End the block where memory runs out."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise


@dataclass(eq=False)
class _Call:
    """One call of a module, and what of its numbers is not finite: None if all are."""

    name: str
    module: nn.Module
    caller: _Call | None
    given: str | None = None
    gave: str | None = None
    half: bool = False

    def __str__(self) -> str:
        return self.name or f"{type(self.module).__name__} itself"


def _fault_of_forward(model: nn.Module, inputs: Inputs) -> str | None:
    calls: list[_Call] = []  # in the order in which they end: what is within comes before what is around

    def enter(call: _Call, args: Any) -> None:
        call.given = _flaw(args)  # here, since it may be overwritten by the module

    def leave(call: _Call, args: Any, kwargs: Any, output: Any) -> None:
        call.given, call.gave, call.half = call.given or _flaw(kwargs), _flaw(output), _is_half(output)
        calls.append(call)

    # With gradients, as in training, but without the memory that they need: nothing is kept for backward.
    with torch.enable_grad(), saved_tensors_hooks(lambda _: None, lambda _: torch.empty(0)):
        with _watched(model, enter, leave):
            loss = _loss_of(model(**inputs, use_cache=False))
        if _flaw(loss, strict=True) is None:
            return None
    flawed = [call for call in calls if call.gave is not None]
    if not any(call.caller for call in flawed):
        return f"every module's output is finite, so that the loss itself fails: {_fault_of_loss(model, inputs)}"
    origin = next((call for call in flawed if call.given is None), None)
    if origin is None:
        first = flawed[0]
        return f"{first} is the first module whose output is not finite ({first.gave}), and neither is its input"
    what = f"{origin} is the first module whose output is not finite ({origin.gave}) though its input is"
    own = chain(origin.module.named_parameters(recurse=False), origin.module.named_buffers(recurse=False))
    if cause := _flawed_weight(own):
        return f"{what}: its {cause}"
    where = ""
    if origin is not flawed[0] and _is_within(flawed[0], origin):
        where = f": what its own code hands to {flawed[0]} is not"
    elif any(call.caller is origin for call in calls):
        where = ": its own code makes it so, after its modules"
    return f"{what}{where}{OF_HALF if origin.half else ''}"


def _fault_of_loss(model: nn.Module, inputs: Inputs) -> str:
    labels, shifted = inputs.get("labels"), inputs.get("shift_labels")
    targets = shifted if shifted is not None else labels[..., 1:] if labels is not None else None
    if targets is not None and not (targets != IGNORE).any():
        return f"the batch has no target, since every label is {IGNORE}"
    if weight := _flawed_weight(model.named_parameters()):  # one that is used without its module
        return weight
    half = any(parameter.dtype == torch.float16 for parameter in model.parameters())
    return f"the batch has targets, and every weight is finite{OF_HALF if half else ''}"


def _fault_of_backward(model: nn.Module, inputs: Inputs) -> str | None:
    ends: list[tuple[_Call | None, list[Node]]] = []  # whose own code ends at which nodes, in the order of execution
    handed: dict[_Call, list[Node]] = {}

    def enter(call: _Call, args: Any) -> None:
        handed[call] = _made_by(args)
        ends.append((call.caller, handed[call]))

    def leave(call: _Call, args: Any, kwargs: Any, output: Any) -> None:
        handed[call] += _made_by(kwargs)  # which only now are told
        ends.append((call, _made_by(output)))

    made: list[_Made] = []  # in the order of backward: who makes of finite gradients one that is not
    given: list[_Call] = []  # and who is given such a one
    with torch.enable_grad():
        with _watched(model, enter, leave):
            loss = _loss_of(model(**inputs, use_cache=False))
        for node, call in _owners(ends).items():
            node.register_hook(_noting(call, node.name(), made, given))
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    there = {name: gradient for name, gradient in zip(named, gradients, strict=True) if gradient is not None}
    flawed = [name for name, gradient in there.items() if _flaw(gradient, strict=True)]
    if not flawed:
        large = [name for name, gradient in there.items() if not isfinite(_rms(gradient))]
        return f"every gradient is finite, but that of {large[-1]} so large that its norm is not" if large else None
    if made:
        return str(made[0])
    if given:
        return f"the sum of the finite gradients that reach {given[0]} is the first in backward that is not finite"
    return f"the gradient of {flawed[-1]} is the first in backward that is not finite"  # backward begins at the last


def _made_by(values: Any) -> list[Node]:
    return [tensor.grad_fn for tensor in _tensors(values) if tensor.grad_fn is not None]


def _owners(ends: Iterable[tuple[_Call | None, list[Node]]]) -> dict[Node, _Call]:
    """Whose own code made each node: who ends there first, and so is the innermost."""
    owners: dict[Node, _Call] = {}
    for call, nodes in ends:
        while call is not None and nodes:
            node = nodes.pop()
            if node in owners or hasattr(node, "variable"):  # a leaf's outlives the pass
                continue
            owners[node] = call
            nodes += [before for before, _ in node.next_functions if before is not None]
    return owners


@dataclass(frozen=True)
class _Made:
    """A gradient that is not finite, made of finite ones."""

    call: _Call
    node: str
    flaw: str
    half: bool

    def __str__(self) -> str:
        kind = self.node.rpartition("::")[2]
        what = f"{self.call} is the first module in backward that makes of finite gradients one that is not"
        steep = kind.partition("Backward")[0] in STEEP
        why = ", which has no finite gradient at 0" if steep else OF_HALF if self.half else ""
        return f"{what} ({self.flaw}, in {kind}{why})"


def _noting(call: _Call, node: str, made: list[_Made], given: list[_Call]) -> Callable[[Any, Any], None]:
    """A hook of a node; it must not hold the node, which holds the hook."""

    def note(of_inputs: Any, of_outputs: Any) -> None:
        if made:
            return
        if _flaw(of_outputs, strict=True):
            given.append(call)
        elif flaw := _flaw(of_inputs, strict=True):
            made.append(_Made(call, node, flaw, _is_half(of_inputs)))

    return note


@contextmanager
def _as_found(model: nn.Module, rng: RandomState | None) -> Iterator[None]:
    """Begin with these random numbers and without checkpointing, and leave behind what was there before."""
    now = RandomState.take(next(model.parameters()).device)
    buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    stands_in: dict[int, Tensor] = {}
    # What a layer does for itself, when asked, is switched by one attribute in all of transformers.
    checkpointing = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]
    try:
        for module in checkpointing:
            module.gradient_checkpointing = False  # type: ignore[assignment]
        # Copies go through the pass: a graph that is still to be differentiated may hold the buffers as they are.
        for module, own in buffers:
            for name, buffer in own.items():
                if buffer is not None:
                    module._buffers[name] = stands_in.setdefault(id(buffer), buffer.clone())
        if rng is not None:
            rng.restore()
        yield
    finally:
        for module in checkpointing:
            module.gradient_checkpointing = True  # type: ignore[assignment]
        for module, own in buffers:
            module._buffers.clear()
            module._buffers.update(own)
        now.restore()


@contextmanager
def _watched(
    model: nn.Module, enter: Callable[[_Call, Any], None], leave: Callable[[_Call, Any, Any, Any], None]
) -> Iterator[None]:
    """Tell of every call of the model's modules: `enter(call, args)`, and `leave(call, args, kwargs, output)`."""
    names = {id(module): name for name, module in model.named_modules()}
    running: list[_Call] = []

    def before(module: nn.Module, args: Any) -> None:
        if id(module) in names:
            running.append(_Call(names[id(module)], module, running[-1] if running else None))
            enter(running[-1], args)

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if id(module) in names:
            while (call := running.pop()).module is not module:
                pass  # it raised, and the model went on
            leave(call, args, kwargs, output)

    handles = [register_module_forward_pre_hook(before), register_module_forward_hook(after, with_kwargs=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_within(call: _Call, around: _Call) -> bool:
    caller = call.caller
    while caller is not None and caller is not around:
        caller = caller.caller
    return caller is around


def _loss_of(output: Any) -> Tensor:
    loss: Tensor = output[0] if isinstance(output, tuple) else output["loss"] if type(output) is dict else output.loss
    return loss


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in what a module takes or gives."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value._values() if value.is_sparse else value  # type: ignore[no-untyped-call]
    elif isinstance(value, Mapping):  # a ModelOutput too
        yield from chain.from_iterable(map(_tensors, value.values()))
    elif isinstance(value, (tuple, list)):
        yield from chain.from_iterable(map(_tensors, value))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from chain.from_iterable(_tensors(getattr(value, field.name)) for field in fields(value))


def _flaw(value: Any, *, strict: bool = False) -> str | None:
    """What is there that is not finite. -inf where no gradient goes is a mask, and no flaw, unless `strict`."""
    for tensor in _tensors(value):
        if torch.isfinite(tensor).all():
            continue
        if torch.isnan(tensor).any():
            return "NaN"
        if strict or tensor.requires_grad or torch.isposinf(tensor).any():
            return "inf" if torch.isposinf(tensor).any() else "-inf"
    return None


def _flawed_weight(named: Iterable[tuple[str, Tensor]]) -> str | None:
    return next((f"{name} holds {flaw}" for name, tensor in named if (flaw := _flaw(tensor))), None)


def _is_half(value: Any) -> bool:
    return any(tensor.dtype == torch.float16 for tensor in _tensors(value))


def _rms(value: Any) -> float:
    """The largest of its tensors' root mean squares; 0 where there is no tensor."""
    return max((_root_mean_square(tensor.detach()) for tensor in _tensors(value)), default=0.0)


def _root_mean_square(tensor: Tensor) -> float:
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
    return float(norm) / sqrt(max(tensor.numel(), 1))


def _spread(module: nn.Module) -> str:
    name, weight = max(module.named_parameters(recurse=False), key=lambda named: named[1].numel())
    return f"its {name}'s standard deviation is {_number(float(weight.detach().float().std(correction=0)))}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
