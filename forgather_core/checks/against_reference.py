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

from ..definition import import_object
from ..reference import Reference, Spread, Weights, surprise
from .attentions import implementations
from .check import DoesNotApply, Measured, check, must
from .subject import Subject
from .tolerance import compared, gradients_compared, gradients_of, rounding

LENGTH = 12  # twice a shrunk window; a reference is slow
EPS = 0.1  # so large that where it stands matters
SIGMAS = 6  # of the deviation of a deviation, as in `initial-weights`


@check("equations", cause="an equation that was read or written wrongly; or a model that is another one on purpose")
def equations(subject: Subject) -> Iterator[Measured]:
    """Logits and gradients are those of the reference that the definition names, which the papers' equations make."""
    logits = _reference(subject).logits
    if logits is None:
        raise DoesNotApply("the definition's reference has no equations")
    text = subject.tokens(1, LENGTH)
    names = [name for name in subject.limits.to_dict() if name.endswith("_eps")]
    cases: list[dict[str, Any]] = [{}, dict.fromkeys(names, EPS)] if names else [{}]
    for changes in cases:
        where = "".join(f", {name} {value}" for name, value in changes.items())
        for attention in implementations(subject):
            model = subject.model(attention=attention, **changes, **subject.no_dropout)
            weights, trained = _twice(model)
            expected = logits(weights, text[0], model.config)
            outputs = model(text, labels=text)
            yield compared(f"{attention}{where}: logits", outputs.logits[0], expected, rounding(model), ("position",))
            surprise(expected, text[0]).mean().backward()  # type: ignore[no-untyped-call]
            outputs.loss.backward()
            found = gradients_of(model)
            right = {name: trained[name].grad for name in found}
            unused = next((name for name, gradient in right.items() if gradient is None), None)
            yield must(f"{attention}{where}: the reference uses every parameter", unused is None, unused)
            if unused is None:
                kept = {name: gradient for name, gradient in right.items() if gradient is not None}
                yield gradients_compared(f"{attention}{where}: gradients", found, kept, rounding(model))


@check("spreads", cause="a table of initial weights that is not what its definition promises")
def spreads(subject: Subject) -> Iterator[Measured]:
    """Initial weights have the spread that the reference of their definition tells, in formulas of its own."""
    promised = _reference(subject).spreads
    if promised is None:
        raise DoesNotApply("the definition's reference tells no initial weights")
    model = subject.initial()
    rows = promised(model.config)
    for name, parameter in model.named_parameters():
        row = next((spread for pattern, spread in rows.items() if re.search(pattern, name)), None)
        yield must(f"{name}: the reference tells it", row is not None, name)
        if row is not None:
            yield _as_told(name, parameter.detach().double(), row)


def _reference(subject: Subject) -> Reference:
    definition = subject.definition
    if definition is None:
        raise DoesNotApply("the directory is of no definition that is installed here")
    if definition.reference is None:
        raise DoesNotApply(f"the definition '{definition.name}' names no reference")
    found: Reference = import_object(definition.reference, definition)
    return found


def _twice(model: Any) -> tuple[Weights, dict[str, Tensor]]:
    """Copies in float64 of all that a model saves, tied where it is tied; and those that are trained."""
    trained = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    names = {p: name for name, p in model.named_parameters()}
    saved = model.state_dict(keep_vars=True)
    return {n: trained[names[t]] if t in names else t.detach().double() for n, t in saved.items()}, trained


def _as_told(name: str, values: Tensor, spread: Spread) -> Measured:
    if isinstance(spread, list):
        right = torch.tensor(spread, dtype=torch.float64)
        fits = right.numel() in (1, values.numel())
        error = (
            float((values - right.view(-1 if right.numel() == 1 else values.shape)).abs().max()) if fits else math.inf
        )
        shown = ", ".join(f"{value:.4g}" for value in spread[:4]) + (", ..." if len(spread) > 4 else "")
        return Measured(f"{name}: {shown}", error, 1e-6, name)
    std = spread(*values.shape) if callable(spread) else spread
    drawn = values[values.abs().sum(-1) > 0] if values.dim() > 1 else values  # without the row of padding
    error = abs(float(drawn.square().mean().sqrt()) / std - 1)
    return Measured(f"{name}: std {std:.4g}", error, SIGMAS / math.sqrt(2 * max(drawn.numel(), 1)), name)
