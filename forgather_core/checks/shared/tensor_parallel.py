"""Simulation of two tensor-parallel ranks in one process.

Each rank runs the model with its parts of the weights. A plan sums two kinds of tensors over ranks: outputs of rowwise
modules, and gradients of the inputs of colwise modules. They are recorded, and replaced by those of the full model,
which equal the sums if the plan is correct. Later modules get correct inputs, so a failure names the wrong module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...definitions.check import Measured, expect
from ...errors import first_line
from ...model.difference import relative_difference
from .compared_gradients import gradient_error
from .parallel_split import ADDED, RANKS, Split, split_of
from .tolerance import position_of_largest, rounding


class _Replaced(torch.autograd.Function):
    """Replace a tensor by another value, and pass gradients through unchanged."""

    @staticmethod
    def forward(_: Any, partial: Tensor, whole: Tensor) -> Tensor:
        return whole.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


@dataclass
class _Run:
    """Tensors that hooks record in one run of the model.

    Args:
        outputs: Outputs of rowwise modules, by name; those of a rank do not include the bias.
        inputs: Gradients of the inputs of colwise modules.
        gradients: Gradients of parameters.
        running: The modules with split children that have not returned, the innermost last.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)


def _run(model: Any, split: Split, text: Tensor, *, backward: bool, rank: int = 0, whole: _Run | None = None) -> _Run:
    """Run the model and, if `backward` is set, compute the gradients of a weighted sum of its logits."""
    run = _Run()
    with ExitStack() as stack:
        if whole is not None:
            stack.enter_context(_parts(model, split, rank))
        for name in {path.rpartition(".")[0] for path in (*split.columns, *split.rows)}:
            module = model.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(lambda *_, n=name: run.running.append(n)).remove)
            stack.callback(module.register_forward_hook(lambda *_: _ended(run)).remove)
        for name, module in split.columns.items():
            stack.callback(module.register_forward_pre_hook(_input_hook(name, run, whole)).remove)
        for name, module in split.rows.items():
            if whole is not None and name in split.whole_inputs:
                hook = lambda _, x: (x[0].chunk(RANKS, -1)[rank], *x[1:])  # noqa: E731
                stack.callback(module.register_forward_pre_hook(hook).remove)
            stack.callback(module.register_forward_hook(_output_hook(name, run, whole)).remove)
        try:
            with torch.set_grad_enabled(backward):
                logits = model(text, use_cache=False).logits
        except Exception as error:
            where = run.running[-1] if run.running else "the model"
            raise RuntimeError(f"{where} raises {type(error).__name__}: {first_line(error)}") from error
        if backward:
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
            found = torch.autograd.grad((logits * weights).sum(), [*trained.values()], allow_unused=True)
            run.gradients = {n: g for n, g in zip(trained, found, strict=True) if g is not None}
    return run


def _ended(run: _Run) -> None:
    run.running.pop()


def _input_hook(name: str, run: _Run, whole: _Run | None) -> Any:
    def note(_: nn.Module, arguments: tuple[Any, ...]) -> Any:
        if not (arguments and isinstance(arguments[0], Tensor) and arguments[0].requires_grad):
            return None
        x = arguments[0].view_as(arguments[0])

        def record(gradient: Tensor) -> Tensor | None:
            run.inputs[name] = gradient
            return None if whole is None else whole.inputs[name]

        x.register_hook(record)  # type: ignore[no-untyped-call]
        return (x, *arguments[1:])

    return note


def _output_hook(name: str, run: _Run, whole: _Run | None) -> Any:
    def note(_module: nn.Module, _arguments: Any, output: Tensor) -> Any:
        run.outputs[name] = output.detach().clone()  # the model may add to it in place
        return None if whole is None else _Replaced.apply(output, whole.outputs[name])  # type: ignore[no-untyped-call]

    return note


@contextmanager
def _parts(model: Any, split: Split, rank: int) -> Iterator[None]:
    """Replace the weights by a rank's parts; rowwise modules lose their bias, which is added after the sum."""
    kept: list[tuple[nn.Module, str, Any]] = []
    try:
        for path, module in model.named_modules():
            for key, parameter in list(module._parameters.items()):
                name = f"{path}.{key}"
                if name in split.dims:
                    kept.append((module, key, parameter))
                    part = split.part(name, parameter.detach(), rank).clone()
                    module._parameters[key] = nn.Parameter(part, requires_grad=parameter.requires_grad)
                elif path in split.rows and key == "bias" and parameter is not None:
                    kept.append((module, key, parameter))
                    module._parameters[key] = None
        yield
    finally:
        for module, key, parameter in kept:
            module._parameters[key] = parameter


def measure_ranks(model: Any, plan: Mapping[str, str], text: Tensor, *, backward: bool) -> Iterator[Measured]:
    """Compare two simulated ranks with the full model.

    Args:
        model: A language model in eval mode.
        plan: The tensor-parallel plan with full names.
        text: Token ids [B, T].
        backward: Whether to compare gradients, too.
    """
    split = split_of(model, plan)
    if not split.dims:
        return
    whole = _run(model, split, text, backward=backward)
    ranks: list[_Run] = []
    for rank in range(RANKS):
        try:
            ranks.append(_run(model, split, text, backward=backward, rank=rank, whole=whole))
        except RuntimeError as raised:
            failure = f"tensor parallelism: on rank {rank} of {RANKS}, {first_line(raised)}"
            yield expect("every rank computes the model", False, failure=failure)
            return
    yield expect("every rank computes the model", True)
    tolerance = rounding(model)
    for name, module in split.rows.items():
        bias = module._parameters.get("bias")
        found = _sum(run.outputs[name] for run in ranks)
        found = found if bias is None else found + bias.detach()
        expected = whole.outputs[name]
        error, where = relative_difference(found, expected), f"{name}, {position_of_largest(found, expected)}"
        failure = f"tensor parallelism: the outputs of {RANKS} ranks do not add up to the output of {name}"
        yield Measured(f"{name}: outputs of ranks add up", error, tolerance, where, failure)
    if backward:
        yield from _compare_gradients(split, whole, ranks, tolerance)


def _compare_gradients(split: Split, whole: _Run, ranks: list[_Run], tolerance: float) -> Iterator[Measured]:
    found = {name: _sum(run.inputs[name] for run in ranks) for name in whole.inputs}
    error, name = gradient_error(found, whole.inputs)
    failure = f"tensor parallelism: the gradients of {RANKS} ranks do not add up at the input of {name}"
    yield Measured("gradients of inputs of colwise modules add up", error, 2 * tolerance, name, failure)
    for rank, run in enumerate(ranks):
        given = {n: g for n, g in run.gradients.items() if n not in split.added}
        expected = {n: split.part(n, g, rank) for n, g in whole.gradients.items() if n in given}
        error, name = gradient_error(given, expected)
        failure = (
            f"tensor parallelism: rank {rank} has a wrong gradient of {name}: if replicated, its style in the plan"
        )
        yield Measured(f"gradients of rank {rank}", error, 2 * tolerance, name, f"{failure} must be {ADDED}")
    if added := {n: g for n, g in whole.gradients.items() if n in split.added}:
        error, name = gradient_error({n: _sum(run.gradients[n] for run in ranks) for n in added}, added)
        failure = f"tensor parallelism: the gradients of {RANKS} ranks do not add up for {name}"
        yield Measured("gradients of replicated parameters add up", error, 2 * tolerance, name, failure)


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)
