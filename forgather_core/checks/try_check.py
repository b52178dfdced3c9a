"""Run one check, and build its row of the report."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..definitions.check import Check, Details, DoesNotApply, Measured
from ..runtime.out_of_memory import out_of_memory
from .shared.expected import expected_reason
from .shared.implementations import uncompiled
from .shared.model_under_test import FLEX, ModelUnderTest

PASSED, FAILED, SKIPPED, EXPECTED = "passed", "failed", "skipped", "failed as expected"
NOTHING = "it measured nothing"
NO_GRADIENTS = f"the model refuses eager and sdpa, and {FLEX} does not support gradients on CPU"


def try_check(check: Check, subject: ModelUnderTest) -> dict[str, Any]:
    """Run one check and return its row of the report.

    A check passes only if it measures at least one case and all cases hold. A check that raises fails, with the text of
    the error as its reason. A check that measures nothing is skipped.
    """
    began = time.perf_counter()
    measured: list[Measured] = []
    details: dict[str, Any] = {}
    reason = None
    try:
        with uncompiled() if _has_only_flex(subject) else nullcontext():
            for one in _yielded(check, subject):
                if isinstance(one, Details):
                    details |= one.content
                else:
                    measured.append(one)
        if not measured:
            raise DoesNotApply(NOTHING)
        result = PASSED if all(one.holds for one in measured) else FAILED
    except DoesNotApply as error:
        result, reason = (FAILED if any(not one.holds for one in measured) else SKIPPED), str(error)
    except NotImplementedError as error:
        # flex_attention is used only if the model refuses the others.
        limited = _is_flex_backward(error) and _has_only_flex(subject) and all(one.holds for one in measured)
        result, reason = (SKIPPED, NO_GRADIENTS) if limited else (FAILED, _reason(error))
    except Exception as error:
        if out_of_memory(error):
            raise  # a limit of the machine, not a fault of the model
        result, reason = FAILED, _reason(error)
    row = row_of(check, result, began=began, reason=reason, measured=measured, details=details)
    return with_expected(row, subject)


def row_of(
    check: Check,
    result: str,
    *,
    began: float,
    reason: str | None,
    measured: Sequence[Measured] = (),
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the row of a check: name, promise, result, measured cases, reason, usual cause, seconds, details."""
    return {
        "name": check.name,
        "promise": check.promise,
        "result": result,
        "measured": [one.as_dict() for one in measured],
        "reason": reason,
        "cause": check.cause if result == FAILED else None,
        "seconds": time.perf_counter() - began,
        "details": dict(details or {}),
    }


def with_expected(row: dict[str, Any], subject: ModelUnderTest) -> dict[str, Any]:
    """Mark the failures in a row that the definition expects, with its reasons, and return the row."""
    expected = {} if subject.definition is None else subject.definition.expected_failures
    for case in row["measured"]:
        case["expected"] = None if case["holds"] else expected_reason(row["name"], case["what"], expected)
    failed = [case for case in row["measured"] if not case["holds"]]
    raised = expected.get(row["name"]) if row["reason"] else None
    if row["result"] == FAILED and all(case["expected"] for case in failed) and (raised or not row["reason"]):
        reasons = dict.fromkeys(case["expected"] for case in failed)
        row |= {"result": EXPECTED, "reason": "; ".join(reasons) or raised, "cause": None}
    elif row["result"] == PASSED and row["name"] in expected:
        row["reason"] = "it does not fail: remove it from expected_failures"
    return row


def _has_only_flex(subject: ModelUnderTest) -> bool:
    try:
        return subject.default_attention == FLEX
    except Exception:  # the model cannot be built, and the check has failed for the same reason
        return False


def _is_flex_backward(error: NotImplementedError) -> bool:
    """Return whether torch refused the backward pass of flex_attention on CPU, which is not a fault of the model."""
    return "FlexAttention does not support backward" in str(error)


def _yielded(check: Check, subject: ModelUnderTest) -> Iterator[Measured | Details]:
    """Yield the measured cases and the details of a check, with errors and tolerances as floats."""
    for one in check.run(subject) or ():
        if isinstance(one, Measured):
            yield replace(one, error=float(one.error), tolerance=float(one.tolerance))
        elif isinstance(one, Details):
            yield one
        else:
            raise TypeError(f"the check '{check.name}' must yield Measured objects; got {type(one).__name__}")


def _reason(error: Exception) -> str:
    """Return the error and the line that raised it, if possible a line of the model's own files or class."""
    frames = traceback.extract_tb(error.__traceback__)
    classes, auto = f"transformers{os.sep}models{os.sep}", f"transformers{os.sep}models{os.sep}auto{os.sep}"
    code = ("transformers_modules", classes)
    files = [frame for frame in frames if auto not in frame.filename]
    own = (next((frame for frame in reversed(files) if part in frame.filename), None) for part in code)
    frame = next(filter(None, own), frames[-1])
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({place})"
