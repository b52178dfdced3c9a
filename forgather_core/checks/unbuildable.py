"""A model that cannot be built is one finding, not one for each check that builds it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ..runtime.child_process import ChildDiedError, ChildProcesses
from .shared.model_under_test import ModelUnderTest
from .try_check import FAILED, SKIPPED

_SECONDS = 600  # time limit of building the small copy


def join_findings(rows: dict[int, dict[str, Any]], subject: ModelUnderTest) -> None:
    """Keep the first of the failures that are the error of building the model; the other checks are skipped.

    Args:
        rows: The rows of the checks, by number; changed in place.
        subject: The model under test.
    """
    raised = [n for n, row in sorted(rows.items()) if row["result"] == FAILED and row["reason"] and not row["measured"]]
    if len(raised) < 2 or (text := _build_error(subject)) is None:
        return
    same = [rows[n] for n in raised if text in rows[n]["reason"]]
    for row in same[1:]:
        row |= {"result": SKIPPED, "reason": f"the model cannot be built: see {same[0]['name']}", "cause": None}


def _build_error(subject: ModelUnderTest) -> str | None:
    """Return the text of the exception that building the model raises, in a row's form; None if it is built."""

    def text_of(_: None) -> str | None:
        try:
            subject.on_meta()
        except Exception as error:
            return " ".join(str(error).split())
        return None

    with ChildProcesses(text_of, seconds=_SECONDS) as build, suppress(ChildDiedError):
        return build(None)
    return None
