"""Run the cases of a covering array in child processes, and find the levels that make cases fail."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any, Self

from ...definitions.check import Measured
from ...runtime.child_process import ChildDiedError, ChildProcesses
from ..shared.expected import expected_reason
from ..shared.model_under_test import ModelUnderTest
from ..shared.processes import process_count
from ..shared.traced import import_tracer
from .agreement import Agreement
from .factors import Case, case_id
from .failures import Failure, excess, failures_of
from .models import BESIDE_OTHERS
from .refused import RAISED
from .rules import violated

_MIN_SECONDS, _TIMES_PLAIN = 60, 100  # time limit of a case
_MOST_PROCESSES = 4


class Calls:
    """Run the cases of a model in child processes, with a time limit for each; a crash fails its case only.

    Args:
        subject: The model under test.
        agreement: Computes and compares a case; None compares with the plain call of the same model.

    Attributes:
        agreement: Computes and compares a case.
    """

    def __init__(self, subject: ModelUnderTest, agreement: Agreement | None = None) -> None:
        self.agreement = agreement or Agreement(subject)
        self._results: dict[str, Measured] = {}
        import_tracer()  # once, before processes are forked
        count = process_count(subject, _MOST_PROCESSES)
        how: dict[str, Any] = {"count": count, "seconds": _seconds(self.agreement)}
        self._run = ChildProcesses(self.agreement.run, **how)
        # Another model may change state on classes and modules, for every later call in its process.
        self._run_once = ChildProcesses(self.agreement.run, single_use=True, **how)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._run.close()
        self._run_once.close()

    def worst_of(self, case: Case) -> Measured:
        """Return the deviation from the plain call that exceeds its tolerance most."""
        self._run_all([case])
        return self._results[case_id(case)]

    def failures(self, cases: Iterable[Case]) -> list[Failure]:
        """Run cases, and return their failures, the worst first."""
        cases = list(cases)
        self._run_all(sorted(cases, key=self.agreement.models.key))
        return failures_of(cases, self.worst_of, self.agreement.base, self.agreement.rules)

    def applicable(self, case: Case) -> Case | None:
        """Return a case with plain levels for those that do not apply to the model; None if it has no meaning."""
        levels = self.agreement.levels
        found = {name: level if level in levels[name] else levels[name][0] for name, level in case.items()}
        return found if violated(found, self.agreement.rules) is None else None

    def expected(self, failure: Failure) -> str | None:
        """Return the reason for which the definition expects a failure, or None."""
        definition = self.agreement.subject.definition
        expected = {} if definition is None else definition.expected_failures
        return expected_reason("call-agreement", case_id(failure.smallest), expected)

    def _run_all(self, cases: Iterable[Case]) -> None:
        new = [case for case in cases if case_id(case) not in self._results]
        for run, is_single in ((self._run, False), (self._run_once, True)):
            for case, result in run.map([case for case in new if (case["made"] in BESIDE_OTHERS) is is_single]):
                self._results[case_id(case)] = _worst(result)


def _seconds(agreement: Agreement) -> float:
    """Return the time limit of a case: many times that of the plain call with the longest text."""
    longest = {**agreement.base, "length": max(agreement.levels["length"], key=int)}
    begin = time.perf_counter()
    agreement.run(longest)
    agreement.models.clear()
    return _MIN_SECONDS + _TIMES_PLAIN * (time.perf_counter() - begin)


def _worst(result: list[Measured] | ChildDiedError) -> Measured:
    """Return the deviation that exceeds its tolerance most; a process that died is a deviation."""
    if isinstance(result, ChildDiedError):
        return Measured(f"{RAISED}: {result}", math.inf, 0.0)
    return max(result, key=excess)
