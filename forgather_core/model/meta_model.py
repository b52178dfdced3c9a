"""A definition's model on the meta device, of its own code: what is told before anything is built or written."""

from __future__ import annotations

from typing import Any

import torch

from ..definitions.definition import import_object
from ..settings.resolve import Settings
from ..tokenizers.lookup import load_tokenizer, quick_facts
from .hf_config import config_values, make_config, option_values, token_ids


def meta_model(settings: Settings, *, dtype: torch.dtype | None = None, attention: str | None = None) -> Any:
    """The model of settled options on meta: nothing is allocated, no directory is touched.

    The tokenizer is asked only for what the options do not say: a preset that states its vocabulary needs no hub.

    Args:
        settings: The settled options.
        dtype: Of its parameters; None is float32.
        attention: The attention implementation; None is what transformers chooses.

    Raises:
        TokenizerError: The vocabulary is the tokenizer's to tell, and it cannot be had.
        ConfigurationError: The configuration class refuses a value.
    """
    definition = settings.configuration.definition
    place = {"base": settings.base_of("tokenizer")}
    facts = quick_facts(settings.directory.tokenizer, **place)
    if facts is None and getattr(settings.options, "vocab_size", None) is None:
        facts = load_tokenizer(settings.directory.tokenizer, **place).facts
    values = config_values(definition, option_values(settings, facts), facts, token_ids(settings, facts))
    config = make_config(definition, values)
    how = {"attn_implementation": attention} if attention is not None else {}
    with torch.device("meta"):
        return import_object(definition.model, definition)._from_config(config, dtype=dtype or torch.float32, **how)
