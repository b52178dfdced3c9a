"""The keyword arguments that attention functions of transformers receive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def recorded_calls(implementation: str) -> Iterator[list[dict[str, Any]]]:
    """Provide the keyword arguments of the calls of an attention function, in order."""
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    original = ALL_ATTENTION_FUNCTIONS[implementation]
    calls: list[dict[str, Any]] = []

    def recorded(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return original(*args, **kwargs)

    AttentionInterface.register(implementation, recorded)
    try:
        yield calls
    finally:
        AttentionInterface.register(implementation, original)
