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


def derived_fields(config_class: Any) -> list[str]:
    """Return the fields of a configuration class that are derived from its options; none if it has no options."""
    from transformers import PreTrainedConfig

    fields = {name: field for name, field in config_class.__dataclass_fields__.items() if field.init}
    if not any(METADATA_KEY in field.metadata for field in fields.values()):
        return []
    own = {name: field for name, field in fields.items() if name not in PreTrainedConfig.__dataclass_fields__}
    not_derived = ("_token_id", "vocab_size", "max_position_embeddings")
    return [
        name
        for name, field in own.items()
        if METADATA_KEY not in field.metadata and field.default is None and not name.endswith(not_derived)
    ]
