"""The options among the fields of a configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...option import METADATA_KEY


def options_of(config: Any) -> list[Any]:
    """Return the options of a configuration, as dataclass fields."""
    if not dataclasses.is_dataclass(config):
        return []
    return [field for field in dataclasses.fields(config) if METADATA_KEY in field.metadata]
