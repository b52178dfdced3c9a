"""Adapters: a module in place of a projection has its effect wherever the projection is used.

LoRA, quantization and sharding replace modules or hook their calls. A model that multiplies by the weight of a module
instead of calling it bypasses them. Here an adapter adds a random matrix to each projection, and the results are
compared with those of a model whose weights include it. Quantized layers store integers: their weight has another dtype
than their input and output.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..errors import first_line
from ..model.difference import relative_difference
from ..runtime.out_of_memory import out_of_memory
from ..training.loss import can_skip_logits
from .shared.compared_gradients import (
    Gradients,
    Recomputation,
    compare_gradients,
    limit_of_amplification,
    loss_and_gradients,
)
from .shared.model_under_test import ModelUnderTest
from .shared.tolerance import compare, rounding

_SIZE = 0.5  # std of an added matrix, relative to that of the weight


class _Adapter(nn.Module):
    """A module around a projection or an embedding, which adds a matrix to its weight without changing it."""

    def __init__(self, base_layer: nn.Linear | nn.Embedding, added: Tensor) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.register_buffer("added", added)

    def __getattr__(self, name: str) -> Any:  # adapters have the weight and the sizes of their module
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_layer, name)

    def forward(self, x: Tensor) -> Tensor:
        base: Tensor = self.base_layer(x)
        return base + _product(self.base_layer, x, self.added)


def _subclassed(layer: nn.Module, added: Tensor) -> nn.Module:
    """Turn a layer into one of a subclass that adds a matrix, as quantized layers have their own forward."""
    kind: Any = type(layer)

    def forward(self: Any, x: Tensor) -> Tensor:
        base: Tensor = kind.forward(self, x)
        return base + _product(self, x, self.added)

    layer.register_buffer("added", added)
    layer.__class__ = type(f"Adapted{kind.__name__}", (kind,), {"forward": forward})
    return layer


def _quantized(layer: Any, added: Tensor) -> Any:
    """Turn a linear layer into one that stores its weight as int8, as weight-only quantization does, without error."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.full, self.bias)

    layer.register_buffer("full", layer.weight.detach() + added)
    layer.weight = nn.Parameter(torch.zeros(added.shape, dtype=torch.int8), requires_grad=False)
    layer.__class__ = type("QuantizedLinear", (nn.Linear,), {"forward": forward})
    return layer


def _product(layer: nn.Module, x: Tensor, added: Tensor) -> Tensor:
    operation = nn.functional.linear if isinstance(layer, nn.Linear) else nn.functional.embedding
    product: Tensor = operation(x, added)
    return product


QUANTIZED = "quantized"
ADAPTERS: dict[str, Callable[[Any, Tensor], nn.Module]] = {
    "wrapped": _Adapter,
    "subclassed": _subclassed,
    QUANTIZED: _quantized,
}


@check("adapters", cause="a weight that is read in place of a call of its module, which bypasses adapters and hooks")
def adapters(subject: ModelUnderTest) -> Iterator[Measured]:
    """An adapter around a projection or an embedding has the effect of adding its matrix to the weight."""
    model = subject.randomized_model(**subject.no_dropout)
    added = _added_matrices(subject, model)
    if not added:
        raise DoesNotApply("it has no torch.nn.Linear and no torch.nn.Embedding with a weight of its own")
    found = list(_compared(subject, model, added))
    if not subject.made_by_forgather and not all(one.holds for one in found):
        found = _in_float64(subject, model, added) or found
    wrong = next((one for one in found if not one.holds), None)
    if wrong is not None and len(added) > 1:  # name the first module that alone is wrong
        for name, matrix in added.items():
            alone = [one for one in _compared(subject, model, {name: matrix}) if not one.holds]
            if alone:
                yield from (replace(one, where=name) for one in alone)
                return
    yield from found


def _added_matrices(subject: ModelUnderTest, model: nn.Module) -> dict[str, Tensor]:
    """Return a random matrix for each projection and embedding whose weight no other module has."""
    generator = torch.Generator().manual_seed(subject.seed)
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return {
        name: torch.randn(module.weight.shape, generator=generator) * module.weight.detach().std() * _SIZE
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, nn.Embedding) and uses[id(module.weight)] == 1
    }


def _compared(subject: ModelUnderTest, model: Any, added: dict[str, Tensor]) -> Iterator[Measured]:
    """Compare models with adapters and a model whose weights include their matrices."""
    for kind, adapter in ADAPTERS.items():
        adapted, merged = copy.deepcopy(model), copy.deepcopy(model)
        for name, matrix in added.items() if kind != QUANTIZED else _quantizable(model, added):
            adapted.set_submodule(name, adapter(adapted.get_submodule(name), matrix))
            with torch.no_grad():
                merged.get_submodule(name).weight += matrix
        try:
            yield from _compared_models(kind, subject, adapted, merged)
        except RuntimeError as error:  # a product of two dtypes
            if out_of_memory(error):
                raise
            if kind == QUANTIZED and not subject.made_by_forgather:
                continue  # some classes read the dtype of a weight: an error, not a silent one
            failure = f"modules {kind}: raises {type(error).__name__}: {first_line(error)}"
            yield expect(f"modules {kind}", False, failure=failure)


def _in_float64(subject: ModelUnderTest, model: Any, added: dict[str, Tensor]) -> list[Measured]:
    """Return the cases in float64, or none unless all hold: then the model amplifies rounding errors of float32.

    A bypassed module has the same effect in every dtype.
    """
    double = {name: matrix.double() for name, matrix in added.items()}
    try:
        found = list(_compared(subject, copy.deepcopy(model).double(), double))
    except Exception:  # the code of others may raise any exception in a dtype that it does not know
        return []
    return [replace(one, what=f"{one.what}, in float64") for one in found] if all(one.holds for one in found) else []


def _quantizable(model: Any, added: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Return the linear layers that quantizers replace, with their matrices: all except the head."""
    head = model.get_output_embeddings()
    modules = ((model.get_submodule(name), (name, matrix)) for name, matrix in added.items())
    return [one for module, one in modules if isinstance(module, nn.Linear) and module is not head]


def _compared_models(kind: str, subject: ModelUnderTest, adapted: Any, merged: Any) -> Iterator[Measured]:
    tolerance = 10 * rounding(
        merged, merged.dtype
    )  # the sum of two products is rounded where that of the weights is not
    for name, text in {"a text": subject.tokens(2), "a single token": subject.tokens(2, 1)}.items():
        with torch.no_grad():
            found, expected = (one.eval()(text, use_cache=False).logits for one in (adapted, merged))
        yield compare(f"modules {kind}, {name}, without gradients", found, expected, tolerance)
    text = subject.tokens(2)
    ways: dict[str, dict[str, Any]] = {"loss": {}}
    if can_skip_logits(merged):
        ways["chunked loss"] = {"skip_logits": True}
    for what, more in ways.items():
        (loss, found), (expected_loss, expected) = (_trained(one, subject, text, more) for one in (adapted, merged))
        yield Measured(f"modules {kind}, training, {what}", relative_difference(loss, expected_loss), tolerance)
        names = found.keys() if kind == QUANTIZED else expected.keys()  # quantized weights have no gradients
        expected = {name: one for name, one in expected.items() if name in names}
        compute = partial(_gradients, merged, subject, text, more, names)
        limit = limit_of_amplification(merged, own=subject.made_by_forgather)
        recomputed = Recomputation(merged, compute, "expected", limit)
        name = f"modules {kind}, training, gradients of the {what}"
        yield compare_gradients(name, found, expected, tolerance, recomputed)


def _trained(model: Any, subject: ModelUnderTest, text: Tensor, more: dict[str, Any]) -> tuple[Tensor, Gradients]:
    """Return the loss and the gradients of a training step."""
    torch.manual_seed(subject.seed)  # a router may be random in training
    loss, gradients = loss_and_gradients(model.train(), input_ids=text, labels=text, use_cache=False, **more)
    return loss, {name.replace(".base_layer.", "."): one for name, one in gradients.items()}


def _gradients(
    model: Any, subject: ModelUnderTest, text: Tensor, more: dict[str, Any], names: Collection[str]
) -> Gradients:
    return {name: one for name, one in _trained(model, subject, text, more)[1].items() if name in names}
