"""Run the cases of a covering array, and compare each with the plain call."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...definitions.check import Measured
from ...errors import first_line
from ...model.difference import relative_difference
from ...runtime.out_of_memory import out_of_memory
from ..shared.cached_forward import takes_positions
from ..shared.compared_gradients import Recomputation, compare_gradients, limit_of_amplification
from ..shared.layers import windows_of
from ..shared.model_under_test import ModelUnderTest
from .allowed import Allowed
from .applicable import inapplicable_levels, rules_of
from .arguments import ITEMS, divides_by_items, targets_of
from .array import all_levels
from .call import Results, call
from .factors import Case, is_low
from .layout import Layout, layout_for
from .models import Models
from .plain import PlainCalls
from .refused import RAISED, refused_levels


class Agreement:
    """Run cases on a model, and compare them with the plain call.

    Args:
        subject: The model under test.

    Attributes:
        inapplicable: The levels that do not apply to the model, as "factor=level", with the reason.
        levels: The levels of each factor that apply to the model, in its scope: those of a quick run, or all.
        rules: The conditions that every case of the model satisfies.
        base: The plain case: the first of these levels, for each factor.
        promised: Leave out levels whose results transformers' classes do not promise.
    """

    promised = True

    def __init__(self, subject: ModelUnderTest) -> None:
        self.subject = subject
        self.inapplicable = inapplicable_levels(subject, promised=self.promised)
        self.levels = {
            name: tuple(level for level in levels if f"{name}={level}" not in self.inapplicable)
            for name, levels in all_levels(quick=subject.scope.quick).items()
        }
        self.rules = rules_of(subject, promised=self.promised)
        self._windows = windows_of(subject)
        self.models = Models(subject)
        self.base: Case = {name: levels[0] for name, levels in self.levels.items()}
        self.plain = PlainCalls(Models(subject).of(self.base))
        self._allowed = Allowed(subject, self.levels, self.plain, self.base)
        if self.promised and not subject.made_by_forgather:
            for name, level, reason in list(refused_levels(self.run, self.levels, self.base, self.rules)):
                self.levels[name] = tuple(one for one in self.levels[name] if one != level)
                self.inapplicable[f"{name}={level}"] = reason

    def run(self, case: Case) -> list[Measured]:
        """Return the deviations of a case from the plain call."""
        layout = layout_for(self.subject, case)
        try:
            with warnings.catch_warnings(action="ignore"):
                expected = self.plain.expected(case, layout)  # first: another model may change state on classes
                model = self.models.of(case)
                found = self._called(model, case, layout)
                compared = list(self._compared(case, layout, found, expected))
        except Exception as error:  # a model may raise any exception
            if out_of_memory(error):
                raise  # a limit of the machine, not a fault of the model
            return [Measured(f"{RAISED} {type(error).__name__}: {first_line(error)}", math.inf, 0.0)]
        return compared or [Measured("no logits of a token are requested", 0.0, 0.0)]  # only logits of padding

    def _called(self, model: Any, case: Case, layout: Layout) -> Results:
        """Return the results of a call; models of others get the positions of padded rows, as from `generate()`."""
        positions = not self.subject.made_by_forgather and takes_positions(model)
        return call(model, case, layout, windows=self._windows, passes_positions=positions)

    def _compared(self, case: Case, layout: Layout, found: Results, expected: Results) -> Iterator[Measured]:
        tolerance = self._allowed.of_logits(case)
        assert expected.logits is not None
        if found.logits is None and case["loss"] == "full":
            yield Measured("no logits", math.inf, 0.0)
        elif found.logits is not None:
            pair = torch.cat(found.logits), torch.cat(expected.logits)
            if pair[0].numel() or pair[1].numel():
                error, allowed = self._allowed.error(case, *pair), self._allowed.of_logits(case, len(pair[1]))
                yield Measured("logits", error, allowed, _where(found.logits, expected.logits))
        if expected.loss is not None:
            yield self._compared_loss(case, layout, found.loss, expected)
        if is_low(case):
            if lost := sorted(expected.gradients.keys() ^ found.gradients.keys()):
                yield Measured("no gradient", math.inf, 0.0, lost[0])
            bad = [name for name, one in found.gradients.items() if not one.isfinite().all()]
            if bad:
                yield Measured("gradients are not finite", math.inf, 0.0, bad[0])
            return
        yield from _compared_layers("hidden states", found.hidden, expected.hidden, 10 * tolerance)
        yield from _compared_layers("attention weights", found.weights, expected.weights, 10 * tolerance)
        if case["gradients"] == "on":
            limit = limit_of_amplification(self.plain.model, own=self.subject.made_by_forgather)
            compute = partial(self.plain.gradients, case, layout)
            recomputed = Recomputation(self.plain.model, compute, "expected", limit)
            yield compare_gradients("gradients", found.gradients, expected.gradients, tolerance, recomputed)

    def _compared_loss(self, case: Case, layout: Layout, found: Tensor | None, expected: Results) -> Measured:
        assert expected.loss is not None and expected.logits is not None
        if found is None:
            return Measured("no loss", math.inf, 0.0)
        if not is_low(case):
            return Measured("loss", relative_difference(found, expected.loss), self._allowed.of_logits(case))
        size = float(torch.cat(expected.logits).double().square().mean().sqrt())
        error = abs(float(found.double() - expected.loss.double()))
        return Measured("loss", error, self._allowed.of_loss(case) * size * _targets_per_item(case, layout))


def _compared_layers(
    what: str, found: list[list[Tensor]], expected: list[list[Tensor]], tolerance: float
) -> Iterator[Measured]:
    """Compare tensors of each document and layer."""
    if any(len(one) != len(other) for one, other in zip(found, expected, strict=True)):
        yield Measured(f"{what} of {len(found[0])} layers, expected {len(expected[0])}", math.inf, 0.0)
    elif found:
        layers = zip(zip(*found, strict=True), zip(*expected, strict=True), strict=True)
        for layer, (of_call, of_plain) in enumerate(layers):
            errors = [relative_difference(a, b) for a, b in zip(of_call, of_plain, strict=True)]
            yield Measured(what, max(errors, key=_nan_is_largest), tolerance, f"layer {layer}")


def _targets_per_item(case: Case, layout: Layout) -> float:
    """Return the number of targets for each item that the loss is divided by; 1 for a mean."""
    count = sum(len(targets_of(case, one, layout)[0]) for one in layout.documents)
    return count / ITEMS if divides_by_items(case) else 1.0


def _nan_is_largest(number: float) -> float:
    return math.inf if math.isnan(number) else number


def _where(found: list[Tensor], expected: list[Tensor]) -> str | None:
    """Return the document and the token at which logits differ most."""
    worst, where = -1.0, None
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one.shape != other.shape:
            return f"document {number}: shape {list(one.shape)}"
        if not one.numel():
            continue
        errors = (one.detach().double() - other.detach().double()).abs().nan_to_num(torch.inf).amax(-1)
        if float(errors.max()) > worst:
            worst, where = float(errors.max()), f"document {number}, token {int(errors.argmax())}"
    return where
