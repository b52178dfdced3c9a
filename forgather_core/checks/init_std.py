"""Init std: initial weights have the standard deviations that the definition's reference states."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..reference import InitStd
from .shared.definition_reference import reference_of
from .shared.model_under_test import ModelUnderTest
from .shared.tolerance import SIGMAS


@check("init-std", cause="an initialization table that differs from the definition's reference")
def init_std(subject: ModelUnderTest) -> Iterator[Measured]:
    """Initial weights have the standard deviations that the definition's reference states."""
    stated = reference_of(subject).init_std
    if stated is None:
        raise DoesNotApply("the definition's reference states no initialization")
    model = subject.fresh_model()
    rows = stated(model.config)
    embedding = model.get_input_embeddings()
    for name, parameter in model.named_parameters():
        row = next((std for pattern, std in rows.items() if re.search(pattern, name)), None)
        yield expect(f"{name}: the reference states its std", row is not None, name)
        if row is not None:
            padding = embedding.padding_idx if parameter is embedding.weight else None
            yield _compare_with_stated(name, parameter.detach(), row, padding)


def _compare_with_stated(name: str, values: Tensor, stated: InitStd, padding: int | None) -> Measured:
    if callable(stated):
        if values.dim() < 2:
            return expect(
                f"{name}: the reference states a number for a vector",
                False,
                name,
                failure=f"{name}: expected a number for a vector, got a function of rows and columns",
            )
        stated = stated(*values.shape[-2:])
    if isinstance(stated, list) or stated == 0:
        return _compare_values(name, values, stated if isinstance(stated, list) else [0.0])
    if padding is not None:  # its row is 0
        values = torch.cat((values[:padding], values[padding + 1 :]))
    error = abs(float(values.double().square().mean().sqrt()) / stated - 1)
    return Measured(f"{name}: std {stated:.4g}", error, SIGMAS / math.sqrt(2 * max(values.numel(), 1)), name)


def _compare_values(name: str, values: Tensor, stated: list[float]) -> Measured:
    """Compare with exact values, computed in float64: the model's may differ by two roundings."""
    text = ", ".join(f"{value:.4g}" for value in stated[:4]) + (", ..." if len(stated) > 4 else "")
    expected = torch.tensor(stated, dtype=torch.float64)
    if expected.numel() not in (1, values.numel()):
        failure = f"{name}: expected {expected.numel()} values ({text}), got {values.numel()}"
        return Measured(f"{name}: {text}", math.inf, 0.0, failure=failure)
    error = (values.double() - expected.view(-1 if expected.numel() == 1 else values.shape)).abs().max()
    tolerance = 2 * float(torch.finfo(values.dtype).eps * expected.abs().max())
    return Measured(f"{name}: {text}", float(error), tolerance, name)
