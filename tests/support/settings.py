"""Options of small models, and a fixture that resolves one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forgather_core.definitions.registry import Registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import ResolvedModel

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
# The smallest llama with grouped heads, as keywords of the Python API.
SMALLEST: dict[str, Any] = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "tokenizer": "bytes",
}
Resolve = Callable[..., ResolvedModel]


@pytest.fixture
def small() -> Resolve:
    """Return a function that resolves a llama of a few thousand parameters; keyword arguments are option values."""

    def resolve_small(**flags: Any) -> ResolvedModel:
        return resolve(find_configuration("llama/4M", Registry(), Path()), SMALL | {"tokenizer": "bytes"} | flags)

    return resolve_small
