"""Run the cases of a covering array, compare each with the plain way, and find the levels that make a case fail."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import first_line
from ...model.difference import relative_difference
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


@dataclass(frozen=True)
class Deviation:
    """The error of a case in one of its results.

    Args:
        what: The result: logits, loss, hidden states, attention weights, gradients, or an exception.
        error: The error; inf for an exception.
        tolerance: The allowed error.
        where: Where the error is largest.
    """

    what: str
    error: float
    tolerance: float
    where: str | None = None

    @property
    def holds(self) -> bool:
        """Return whether the error is within the tolerance."""
        return math.isfinite(self.error) and self.error <= self.tolerance


class Agreement:
    """Runs cases on a model and compares them with the plain way.

    Args:
        subject: The model under test.

    Attributes:
        levels: The levels of each factor that apply to the model.
        left_out: The levels that do not apply, as "factor=level", with the reason.
    """

    def __init__(self, subject: ModelUnderTest) -> None:
        self.subject = subject
        self.levels, self.left_out = applicable_levels(subject)
        self._windows = windows_of(subject)
        self._models: dict[tuple[str, str], Any] = {}
        self._base: Case = {**PLAIN, "attention": self.levels["attention"][0]}
        self.plain = PlainCalls(self._model(self._base))
        self.tolerance = rounding(self.plain.model)
        self._low_errors: dict[tuple[str, str], float] = {}

    def _model(self, case: Case) -> Any:
        dtype = "float32" if case["dtype"].startswith("autocast-") else case["dtype"]
        return self._model_of(case["attention"], dtype)

    def _model_of(self, attention: str, dtype: str) -> Any:
        key = (attention, dtype)
        if key not in self._models:
            model = self.subject.randomized_model(attention=attention, **self.subject.no_dropout)
            self._models[key] = model.to(DTYPES[dtype])
        return self._models[key]

    def run(self, case: Case) -> list[Deviation]:
        """Return the deviations of a case from the plain way."""
        pad = getattr(self.subject.text_config, "pad_token_id", None)
        layout = layout_of(case, self._tokens, pad if isinstance(pad, int) and pad >= 0 else 0)
        model = self._model(case)
        try:
            with warnings.catch_warnings(action="ignore"):
                found = call(model, case, layout, windows=self._windows, passes_positions=self.subject.is_builtin)
        except Exception as error:  # a model may raise any exception
            return [Deviation(f"raised {type(error).__name__}: {first_line(error)}", math.inf, 0.0)]
        expected = self.plain.expected(case, layout, found.kept)
        compared = list(self._compared(case, layout, found, expected))
        return compared or [Deviation("no logits of a token are returned", 0.0, 0.0)]  # they are those of padding

    def _tokens(self, rows: int, length: int) -> Tensor:
        return self.subject.tokens(rows, length)

    def _compared(self, case: Case, layout: Layout, found: Results, expected: Results) -> Iterator[Deviation]:
        tolerance = self._low_error(case) if is_low(case) else self.tolerance
        difference = _mean_difference if is_low(case) else relative_difference
        if found.logits is not None and expected.logits is not None:
            pair = torch.cat(found.logits), torch.cat(expected.logits)
            if pair[0].numel() or pair[1].numel():
                yield Deviation("logits", difference(*pair), tolerance, _where(found.logits, expected.logits))
        if expected.loss is not None:
            if found.loss is None:
                yield Deviation("no loss", math.inf, 0.0)
            elif is_low(case):
                size = float(torch.cat(self._all_logits(expected)).double().square().mean().sqrt())
                error = abs(float(found.loss.double() - expected.loss.double()))
                yield Deviation("loss", error, 2 * tolerance * size * _targets_per_item(case, layout))
            else:
                yield Deviation("loss", relative_difference(found.loss, expected.loss), tolerance)
        if is_low(case):
            bad = [name for name, one in found.gradients.items() if not one.isfinite().all()]
            if bad:
                yield Deviation("gradients are not finite", math.inf, 0.0, bad[0])
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
                yield Deviation(what, max(errors, key=_nan_is_largest), 10 * tolerance, f"layer {layer}")
        if case["gradients"] == "on":
            error, where = gradient_error(found.gradients, expected.gradients)
            yield Deviation("gradients", error, 2 * tolerance, where)

    @staticmethod
    def _all_logits(results: Results) -> list[Tensor]:
        assert results.logits is not None
        return results.logits

    def _low_error(self, case: Case) -> float:
        """Return the allowed error of a 16-bit dtype: a multiple of that of the plain call in it."""
        key = (case["attention"], case["dtype"])
        if key not in self._low_errors:
            plain = {**self._base, "dtype": case["dtype"], "length": _LONG}
            layout = layout_of(plain, self._tokens, 0)
            with warnings.catch_warnings(action="ignore"):
                found = call(self._model(plain), plain, layout, windows=self._windows, passes_positions=False)
            expected = self.plain.expected(plain, layout, None)
            assert found.logits is not None and expected.logits is not None
            self._low_errors[key] = _LOW_ERROR * _mean_difference(torch.cat(found.logits), torch.cat(expected.logits))
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


def differing(case: Case, base: Mapping[str, str] = PLAIN) -> frozenset[tuple[str, str]]:
    """Return the levels of a case that are not plain."""
    return frozenset((name, level) for name, level in case.items() if level != base[name])


def _targets_per_item(case: Case, layout: Layout) -> float:
    """Return the number of targets for each item that the loss is divided by; 1 for a mean."""
    count = sum(len(targets_of(case, one.targets)) for one in layout.documents)
    return count / ITEMS if case["labels"] == "num-items" else 1.0


def _nan_is_largest(number: float) -> float:
    return math.inf if math.isnan(number) else number


def _mean_difference(found: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference, relative to that of the expected tensor."""
    if found.shape != expected.shape:
        return math.inf
    found, expected = found.detach().double(), expected.detach().double()
    return float(((found - expected).square().mean() / expected.square().mean().clamp_min(1e-60)).sqrt())


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
