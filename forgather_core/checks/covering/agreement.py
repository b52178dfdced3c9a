"""Run the cases of a covering array, compare each with the plain way, and find the levels that make a case fail."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...definitions.check import Measured
from ...errors import first_line
from ...model.difference import relative_difference, rms_difference
from ..inputs import padding_id
from ..model_under_test import ModelUnderTest
from ..tolerance import gradient_error, rounding
from .applicable import applicable_levels, windows_of
from .arguments import ITEMS, targets_of
from .call import DTYPES, Results, call
from .factors import NAMES, PLAIN, Case, is_low, violated
from .layout import Layout, layout_of
from .plain import PlainCalls

_LOW_ERROR = 4  # allowed error of a 16-bit call, relative to that of the plain call in the same dtype
_LONG = "129"  # tokens of the text that measures it


class Agreement:
    """Runs cases on a model and compares them with the plain way.

    Args:
        subject: The model under test.

    Attributes:
        levels: The levels of each factor that apply to the model.
    """

    def __init__(self, subject: ModelUnderTest) -> None:
        self.subject = subject
        self.levels = applicable_levels(subject)
        self._windows = windows_of(subject)
        self._models: dict[tuple[str, str], Any] = {}
        self._base: Case = {**PLAIN, "attention": self.levels["attention"][0]}
        self.plain = PlainCalls(self._model(self._base))
        self.tolerance = rounding(self.plain.model)
        self._low_errors: dict[str, float] = {}

    def _model(self, case: Case) -> Any:
        key = case["attention"], "float32" if case["dtype"].startswith("autocast-") else case["dtype"]
        if key not in self._models:
            model = self.subject.randomized_model(attention=key[0], **self.subject.no_dropout)
            self._models[key] = model.to(DTYPES[key[1]])
        return self._models[key]

    def run(self, case: Case) -> list[Measured]:
        """Return the deviations of a case from the plain way."""
        layout = layout_of(case, self.subject.tokens, padding_id(self.subject))
        model = self._model(case)
        try:
            with warnings.catch_warnings(action="ignore"):
                found = call(model, case, layout, windows=self._windows, passes_positions=self.subject.is_builtin)
        except Exception as error:  # a model may raise any exception
            return [Measured(f"raised {type(error).__name__}: {first_line(error)}", math.inf, 0.0)]
        expected = self.plain.expected(case, layout, found.kept)
        compared = list(self._compared(case, layout, found, expected))
        return compared or [Measured("no logits of a token are returned", 0.0, 0.0)]  # they are those of padding

    def _compared(self, case: Case, layout: Layout, found: Results, expected: Results) -> Iterator[Measured]:
        tolerance = self._low_error(case) if is_low(case) else self.tolerance
        difference = rms_difference if is_low(case) else relative_difference
        if found.logits is not None and expected.logits is not None:
            pair = torch.cat(found.logits), torch.cat(expected.logits)
            if pair[0].numel() or pair[1].numel():
                yield Measured("logits", difference(*pair), tolerance, _where(found.logits, expected.logits))
        if expected.loss is not None:
            if found.loss is None:
                yield Measured("no loss", math.inf, 0.0)
            elif is_low(case):
                assert expected.logits is not None
                size = float(torch.cat(expected.logits).double().square().mean().sqrt())
                error = abs(float(found.loss.double() - expected.loss.double()))
                yield Measured("loss", error, 2 * tolerance * size * _targets_per_item(case, layout))
            else:
                yield Measured("loss", relative_difference(found.loss, expected.loss), tolerance)
        if is_low(case):
            bad = [name for name, one in found.gradients.items() if not one.isfinite().all()]
            if bad:
                yield Measured("gradients are not finite", math.inf, 0.0, bad[0])
            return
        for what, mine, others in (
            ("hidden states", found.hidden, expected.hidden),
            ("attention weights", found.weights, expected.weights),
        ):
            if not mine:
                continue
            layers = zip(zip(*mine, strict=True), zip(*others, strict=True), strict=True)
            for layer, (of_call, of_plain) in enumerate(layers):
                errors = [relative_difference(a, b) for a, b in zip(of_call, of_plain, strict=True)]
                yield Measured(what, max(errors, key=_nan_is_largest), 10 * tolerance, f"layer {layer}")
        if case["gradients"] == "on":
            error, where = gradient_error(found.gradients, expected.gradients)
            yield Measured("gradients", error, 2 * tolerance, where)

    def _low_error(self, case: Case) -> float:
        """Return the allowed error of a 16-bit dtype: a multiple of that of the plain call in it."""
        key = case["dtype"]
        if key not in self._low_errors:
            plain = {**self._base, "dtype": case["dtype"], "length": _LONG}
            layout = layout_of(plain, self.subject.tokens, 0)
            with warnings.catch_warnings(action="ignore"):
                found = call(self._model(plain), plain, layout, windows=self._windows, passes_positions=False)
            expected = self.plain.expected(plain, layout, None)
            assert found.logits is not None and expected.logits is not None
            self._low_errors[key] = _LOW_ERROR * rms_difference(torch.cat(found.logits), torch.cat(expected.logits))
        return self._low_errors[key]

    def shrunk(self, case: Case) -> dict[str, str]:
        """Return a case with as few levels that are not plain as possible that still fails."""
        smallest = dict(case)
        changed = True
        while changed:
            changed = False
            for name in reversed(NAMES):
                if smallest[name] == self._base[name]:
                    continue
                simpler = {**smallest, name: self._base[name]}
                if violated(simpler) is None and not all(one.holds for one in self.run(simpler)):
                    smallest, changed = simpler, True
        return smallest


def differing(case: Case) -> frozenset[tuple[str, str]]:
    """Return the levels of a case that are not plain."""
    return frozenset((name, level) for name, level in case.items() if level != PLAIN[name])


def _targets_per_item(case: Case, layout: Layout) -> float:
    """Return the number of targets for each item that the loss is divided by; 1 for a mean."""
    count = sum(len(targets_of(case, one.targets)) for one in layout.documents)
    return count / ITEMS if case["labels"] == "num-items" else 1.0


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
