"""Models that torch's tracer runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def traced(model: Any, *, fullgraph: bool = False) -> Iterator[Any]:
    """Provide a model compiled by torch's tracer only: its compiler is slow and not under test.

    Args:
        model: The model.
        fullgraph: A graph break is an error; otherwise it is silent.
    """
    from transformers.utils import logging as transformers_logging

    log = logging.getLogger("torch._dynamo")
    level = log.level
    log.setLevel(logging.ERROR)  # a graph break would print the stack
    torch._dynamo.reset()  # type: ignore[no-untyped-call]
    try:
        with torch._dynamo.config.patch(ignore_logging_functions={transformers_logging.warning_once}):
            yield torch.compile(model, backend="eager", fullgraph=fullgraph)
    finally:
        log.setLevel(level)
        torch._dynamo.reset()  # type: ignore[no-untyped-call]


def import_tracer() -> None:
    """Import the 400 modules that torch's tracer and flex_attention need at their first call, for half a second."""
    torch.compile(torch.relu, backend="eager")
