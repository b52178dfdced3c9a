"""Resolved settings of a definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forgather_core.definitions.registry import registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve
from forgather_core.settings.resolved_model import ResolvedModel

Resolve = Callable[..., ResolvedModel]
DEFINITIONS = ("single_head", "causal_lm", "llama", "deepone", "mistral", "qwen3")


@pytest.fixture
def resolved(tmp_path: Path) -> Resolve:
    def resolved(template: str = "llama/4M", **given: Any) -> ResolvedModel:
        return resolve(find_configuration(template, registry(), tmp_path), given)

    return resolved
