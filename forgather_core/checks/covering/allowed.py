"""The allowed error of a case, and how it is measured.

A model of others may amplify rounding errors, and may select experts or keys by top-k, where rounding decides between
nearly equal scores. So its amplification is measured, and in 16 bits the median token counts: a few tokens may select
differently.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ...model.difference import relative_difference, rms_difference
from ...runtime.out_of_memory import out_of_memory
from ..shared.compared_gradients import MAX_AMPLIFIED, perturbed_weights
from ..shared.layers import windows_of
from ..shared.model_under_test import ModelUnderTest
from ..shared.selection import Selections, same_selections, selects
from ..shared.tolerance import rounding
from .call import Results, call
from .factors import Case, case_id, is_low
from .layout import Layout, layout_for
from .models import Models
from .plain import PlainCalls

_LOW_ERROR = 4  # allowed error of a 16-bit call, relative to that of the plain call in the same dtype
_LONG = 129  # maximum length, in tokens, of the text that measures this error
_PERTURBATIONS = 3
_ROUNDED = 4  # weights, inputs and results of products, and states of recurrent layers
_MAX_ERROR = 0.7  # half of the error of unrelated logits
_SELECTED = 1 / 8  # the share of tokens that select differently in 16 bits, in the mean of the loss
_FEW = 16  # tokens; of fewer, half may select differently, and their errors are not those of many


class Allowed:
    """The allowed errors of the cases of one model.

    Args:
        subject: The model under test.
        levels: The levels of each factor that apply to the model.
        plain: The plain calls.
        base: The plain case.
        low_results: Returns the results of a plain call in 16 bits; None stands for those of the model.
    """

    def __init__(
        self,
        subject: ModelUnderTest,
        levels: Mapping[str, Sequence[str]],
        plain: PlainCalls,
        base: Case,
        low_results: Callable[[Case, Layout], Results] | None = None,
    ) -> None:
        self._subject = subject
        self._levels = levels
        self._plain = plain
        self._base = base
        self._low_results = low_results or self.low_results
        self._low: dict[str, float] = {}
        self._amplified: dict[int, float] = {}
        self._refused: set[int] = set()  # lengths of texts

    def error(self, case: Case, found: Tensor, expected: Tensor) -> float:
        """Return the error of logits [tokens, vocabulary]."""
        return self._low_difference(found, expected) if is_low(case) else relative_difference(found, expected)

    def of_logits(self, case: Case, tokens: int | None = None) -> float:
        """Return the allowed error of the logits of a number of tokens; None stands for many."""
        if is_low(case):
            few = tokens is not None and tokens < _FEW and self._selects
            return _MAX_ERROR if few else self._low_error(case)
        length = int(case["length"])
        tolerance = rounding(self._plain.model, tokens=length)
        return tolerance if self._subject.made_by_forgather else max(tolerance, self._amplification(length))

    def of_loss(self, case: Case) -> float:
        """Return the allowed error of the loss of a token in 16 bits, relative to the size of the logits."""
        return 2 * max(self._low_error(case), _SELECTED if self._selects else 0.0)

    @cached_property
    def _selects(self) -> bool:
        return not self._subject.made_by_forgather and selects(self._subject)

    def _measured(self, length: int, measure: Callable[[int], float]) -> float:
        """Return the measurement of a long text or, if a model of others refuses it, of one of `length` tokens."""
        longest = max(int(one) for one in self._levels["length"] if int(one) <= _LONG)
        if not (self._subject.made_by_forgather or longest in self._refused):
            try:
                return measure(longest)
            except Exception as error:
                if out_of_memory(error):
                    raise
                self._refused.add(longest)
        return measure(longest if self._subject.made_by_forgather else min(length, longest))

    def _amplification(self, length: int) -> float:
        """Return the effect of rounding on the logits of a text, as far as the model amplifies errors.

        It is measured for rounded weights; inputs and results of their products are rounded, too.
        """

        def measure(tokens: int) -> float:
            if tokens not in self._amplified:
                self._amplified[tokens] = self._amplification_of(self._subject.tokens(2, tokens))
            return self._amplified[tokens]

        return measure(length) if length > _LONG else self._measured(length, measure)

    def _amplification_of(self, text: Tensor) -> float:
        model, changes = self._plain.model.eval(), [0.0]
        with torch.no_grad(), Selections() as selections:
            exact, repeated = (model(text, use_cache=False).logits for _ in range(2))
        # Otherwise something else than rounding changes the logits.
        for seed in range(_PERTURBATIONS if torch.equal(exact, repeated) else 0):
            with torch.no_grad(), perturbed_weights(model, 1, seed), same_selections(selections.found):
                changes.append(relative_difference(model(text, use_cache=False).logits, exact))
        return min(_ROUNDED * max(changes), MAX_AMPLIFIED * rounding(model))

    def _low_error(self, case: Case) -> float:
        """Return the allowed error in 16 bits, or with a quantized cache.

        It is a multiple of the error of a call that differs from the plain one only in dtype, cache and length.
        """

        def measure(tokens: int) -> float:
            plain = {**self._base, "dtype": case["dtype"], "length": str(tokens)}
            if case["cache"] == "quantized":
                plain |= {"cache": "quantized", "chunks": case["chunks"]}
            key = case_id(plain)
            if key not in self._low:
                error = self._error_of(plain)
                self._low[key] = min(max(_LOW_ERROR * error, rounding(self._plain.model)), _MAX_ERROR)
            return self._low[key]

        length = int(case["length"])
        error = self._measured(length, measure)
        # Of few tokens, those that a cache has quantized may be a larger part.
        few = case["cache"] == "quantized" and length < _FEW and not self._subject.made_by_forgather
        return max(error, measure(length)) if few else error

    def _error_of(self, plain: Case) -> float:
        layout = layout_for(self._subject, plain)
        expected = self._plain.expected(plain, layout)
        found = self._low_results(plain, layout)
        assert found.logits is not None and expected.logits is not None
        return self._low_difference(torch.cat(found.logits), torch.cat(expected.logits))

    def low_results(self, plain: Case, layout: Layout) -> Results:
        """Return the results of the model under test in a plain call in 16 bits."""
        with warnings.catch_warnings(action="ignore"):
            model = Models(self._subject).of(plain)
            return call(model, plain, layout, windows=windows_of(self._subject), passes_positions=False)

    def _low_difference(self, found: Tensor, expected: Tensor) -> float:
        if not self._selects or found.shape != expected.shape:
            return rms_difference(found, expected)
        found, expected = found.detach().double(), expected.detach().double()
        errors = (found - expected).square().mean(-1).sqrt()
        if not bool(errors.isfinite().all()):
            return math.nan
        return float(errors.median() / expected.square().mean().sqrt())
