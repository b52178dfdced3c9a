"""The content of each kind of page: one function for each kind of report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..content import Content
from . import checkpoint, compare, construct, data, estimate, listings, plain, show, train, training_check, verify

__all__ = ["KINDS", "content"]

KINDS: Mapping[str, Callable[[Mapping[str, Any]], Content]] = {
    "checkpoint": checkpoint.inspection,
    "checks": listings.checks,
    "compare": compare.comparison,
    "construct": construct.construction,
    "dataset": data.dataset,
    "datasets": listings.datasets,
    "estimate": estimate.estimate,
    "eval": train.evaluation,
    "load": checkpoint.load,
    "ls": listings.models,
    "plugin": listings.package,
    "plugins": listings.plugins,
    "sample": train.samples,
    "save": checkpoint.save,
    "show": show.settings,
    "test": training_check.training_check,
    "tokenizer": data.tokenizer,
    "train": train.training_run,
    "verify": verify.verification,
}


def content(kind: str, report: Mapping[str, Any]) -> Content:
    """Return the content of the page of a report; unknown kinds are shown as plain data."""
    return KINDS[kind](report) if kind in KINDS else plain.anything(kind, report)
