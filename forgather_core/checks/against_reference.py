"""The definition's reference, the equations and initial weights written a second time: the model is held to both.

Nothing but its author can tell which model a definition is meant to be: with another activation it is as sound, and
another one. So a definition may name a `Reference`, of its papers' equations and of no line of the model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..definitions.definition import import_object
from ..errors import DefinitionError
from ..reference import InitStd, Reference, Weights, float64, surprise
from .attentions import implementations
from .initial_weights import SIGMAS
from .subject import ModelUnderTest
from .tolerance import compared, gradients_compared, gradients_of, rounding

LENGTH = 12  # twice a shrunk window; a reference is slow
EPS = 0.1  # so large that where it stands matters


@check("equations", cause="an equation that was read or written wrongly; or a model that is another one on purpose")
def equations(subject: ModelUnderTest) -> Iterator[Measured]:
    """Logits and gradients are those of the reference that the definition names, which the papers' equations make."""
    logits = _reference(subject).logits
    if logits is None:
        raise DoesNotApply("the definition's reference has no equations")
    text = subject.tokens(1, LENGTH)
    names = [name for name in subject.text_config.to_dict() if name.endswith("_eps")]
    cases: list[dict[str, Any]] = [{}, dict.fromkeys(names, EPS)] if names else [{}]
    for changes in cases:
        where = "".join(f", {name} {value}" for name, value in changes.items())
        for attention in implementations(subject):
            model = subject.model(attention=attention, **changes, **subject.no_dropout)
            yield from _held_to(logits, model, text, f"{attention}{where}")


def _held_to(logits: Any, model: Any, text: Tensor, what: str) -> Iterator[Measured]:
    """Logits and gradients of one model."""
    weights, trained = _twice(model)
    expected = logits(weights, text[0], model.config)
    outputs = model(text, labels=text)
    yield compared(f"{what}: logits", outputs.logits[0], expected, rounding(model), ("position",))
    surprise(expected, text[0]).mean().backward()  # type: ignore[no-untyped-call]
    outputs.loss.backward()
    right = {name: trained[name].grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    unused = next((name for name, gradient in right.items() if gradient is None), None)
    yield expect(f"{what}: the reference uses every parameter", unused is None, unused)
    if unused is None:
        kept = {name: gradient for name, gradient in right.items() if gradient is not None}
        yield gradients_compared(f"{what}: gradients", gradients_of(model), kept, rounding(model))


@check("spreads", cause="a table of initial weights that is not what its definition promises")
def spreads(subject: ModelUnderTest) -> Iterator[Measured]:
    """Initial weights have the spread that the reference of their definition tells, in formulas of its own."""
    promised = _reference(subject).spreads
    if promised is None:
        raise DoesNotApply("the definition's reference tells no initial weights")
    model = subject.fresh_model()
    rows = promised(model.config)
    embedding = model.get_input_embeddings()
    for name, parameter in model.named_parameters():
        row = next((spread for pattern, spread in rows.items() if re.search(pattern, name)), None)
        yield expect(f"{name}: the reference tells it", row is not None, name)
        if row is not None:
            padding = embedding.padding_idx if parameter is embedding.weight else None
            yield _as_told(name, parameter.detach(), row, padding)


def _reference(subject: ModelUnderTest) -> Reference:
    definition = subject.definition
    if definition is None:
        raise DoesNotApply("the directory is of no definition that is installed here")
    if definition.reference is None:
        raise DoesNotApply(f"the definition '{definition.name}' names no reference")
    found = import_object(definition.reference, definition)
    if not isinstance(found, Reference):
        raise DefinitionError(
            f"the definition '{definition.name}' names '{definition.reference}', which is no Reference"
        )
    return found


def _twice(model: Any) -> tuple[Weights, dict[str, Tensor]]:
    """Copies in float64 of all that a model saves, tied where it is tied; and those that are trained."""
    trained = float64(dict(model.named_parameters()), trainable=True)
    names = {p: name for name, p in model.named_parameters()}
    saved = model.state_dict(keep_vars=True)
    return {n: trained[names[t]] if t in names else t.detach().double() for n, t in saved.items()}, trained


def _as_told(name: str, values: Tensor, spread: InitStd, padding: int | None) -> Measured:
    if callable(spread):
        if values.dim() < 2:
            return expect(f"{name}: the reference has a function of rows and columns for a vector", False, name)
        spread = spread(*values.shape[-2:])
    if isinstance(spread, list) or spread == 0:
        return _equal(name, values, spread if isinstance(spread, list) else [0.0])
    if padding is not None:  # is zero
        values = torch.cat((values[:padding], values[padding + 1 :]))
    error = abs(float(values.double().square().mean().sqrt()) / spread - 1)
    return Measured(f"{name}: std {spread:.4g}", error, SIGMAS / math.sqrt(2 * max(values.numel(), 1)), name)


def _equal(name: str, values: Tensor, told: list[float]) -> Measured:
    """Values that are told; those of a formula in float64, of which the model's may be the nearest but one."""
    shown = ", ".join(f"{value:.4g}" for value in told[:4]) + (", ..." if len(told) > 4 else "")
    right = torch.tensor(told, dtype=torch.float64)
    if right.numel() not in (1, values.numel()):
        return Measured(f"{name}: {shown}", math.inf, 0.0, f"{name}: {values.numel()} values")
    error = (values.double() - right.view(-1 if right.numel() == 1 else values.shape)).abs().max()
    return Measured(
        f"{name}: {shown}", float(error), 2 * float(torch.finfo(values.dtype).eps * right.abs().max()), name
    )
