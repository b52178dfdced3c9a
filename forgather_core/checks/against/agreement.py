"""Run the cases of a covering array on a model and on another implementation with the same weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...definitions.check import Measured
from ...errors import first_line
from ...runtime.out_of_memory import out_of_memory
from ..covering.agreement import Agreement
from ..covering.allowed import Allowed
from ..covering.call import Results
from ..covering.factors import Case
from ..covering.failures import excess
from ..covering.layout import Layout, layout_for
from ..covering.models import DTYPES, Models
from ..covering.plain import PlainCalls
from ..covering.refused import RAISED
from ..shared.model_under_test import ModelUnderTest
from .counterpart import Counterpart, cast, different_parameters


class OtherAgreement(Agreement):
    """Run cases on a model, and compare them with another implementation.

    A case holds if its results are those of the other implementation in the plain call of each document, or in the
    same call: the other implementation may have mistakes in calls that are not plain.

    Args:
        subject: The model under test.
        counterpart: The other implementation.

    Attributes:
        own: The model under test in the plain call.
        problems: A sentence for each group of weights that only one of the two has.
    """

    promised = False

    def __init__(self, subject: ModelUnderTest, counterpart: Counterpart) -> None:
        super().__init__(subject)
        self._counterpart, self.own = counterpart, self.plain.model
        other, self.problems = counterpart.model_of(subject, self.own, attention=self.base["attention"])
        self.plain = PlainCalls(other)
        self._allowed = Allowed(subject, self.levels, self.plain, self.base, self._low_results)
        self._other_names = frozenset(different_parameters(self.own, other))
        self._latest: tuple[tuple[str, ...], Any] | None = None

    def run(self, case: Case) -> list[Measured]:
        """Return the deviations of a case from the other implementation."""
        from_plain = super().run(case)
        if all(one.holds for one in from_plain):
            return from_plain
        from_same = self._compared_with_same(case)
        return min(from_plain, from_same, key=lambda found: max(map(excess, found)))

    def _compared_with_same(self, case: Case) -> list[Measured]:
        """Return the deviations from the same call of the other implementation."""
        layout = layout_for(self.subject, case)
        found, expected = (self._results(case, layout, other=other) for other in (False, True))
        if isinstance(found, str) or isinstance(expected, str):
            if found == expected and case != self.base:
                return [Measured(f"both raise {found}", 0.0, 0.0)]
            one, two = (f"{RAISED} {one}" if isinstance(one, str) else "no error" for one in (found, expected))
            return [Measured(f"{one}, and {self._counterpart.name}: {two}", torch.inf, 0.0)]
        if expected.logits is None:
            return [Measured(f"no logits of {self._counterpart.name}", torch.inf, 0.0)]
        return list(self._compared(case, layout, found, expected)) or [Measured("no logits", 0.0, 0.0)]

    def _results(self, case: Case, layout: Layout, *, other: bool) -> Results | str:
        """Return the results of a call, or the class and the text of the exception that it raises."""
        try:
            with warnings.catch_warnings(action="ignore"):
                model = self._other_model(case) if other else self.models.of(case)
                return self._called(model, case, layout)
        except Exception as error:
            if out_of_memory(error):
                raise
            return f"{type(error).__name__}: {first_line(error)}"

    def _other_model(self, case: Case) -> Any:
        """Return the other implementation with the attention, dropout and dtype of a case."""
        key = Models.key(case)[1:]
        if self._latest is None or self._latest[0] != key:
            self._latest = None
            own = self.subject.fresh_model(**self.models.changes(case))
            own.load_state_dict(self.own.state_dict())
            other, _ = self._counterpart.model_of(self.subject, own, attention=case["attention"])
            self._latest = key, cast(other, DTYPES[key[0]], self.subject)
        return self._latest[1]

    def _low_results(self, plain: Case, layout: Layout) -> Results:
        """Return the results of the other implementation in 16 bits; those of the model if it raises an error."""
        found = self._results(plain, layout, other=True)
        return self._allowed.low_results(plain, layout) if isinstance(found, str) else found

    def _compared(self, case: Case, layout: Layout, found: Results, expected: Results) -> Iterator[Measured]:
        """Compare results, with the gradients of parameters that have the same name in both implementations."""
        if self._other_names:
            found, expected = (replace(one, gradients=self._of_both(one.gradients)) for one in (found, expected))
        yield from super()._compared(case, layout, found, expected)

    def _of_both(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: one for name, one in gradients.items() if name not in self._other_names}
