"""The keyword arguments that attention functions of transformers receive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def recorded_calls(implementation: str) -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """Provide the calls of an attention function, in order: the module and the keyword arguments."""
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    original = ALL_ATTENTION_FUNCTIONS[implementation]
    calls: list[tuple[Any, dict[str, Any]]] = []

    def recorded(module: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append((module, kwargs))
        return original(module, *args, **kwargs)

    AttentionInterface.register(implementation, recorded)
    try:
        yield calls
    finally:
        AttentionInterface.register(implementation, original)
