"""Build a definition's model on the meta device from its own code, before anything is written."""

from __future__ import annotations

from typing import Any

import torch

from ..settings.resolved_model import ResolvedModel
from ..tokenizers.lookup import load_tokenizer
from .hf_config import make_config


def meta_model(resolved: ResolvedModel, *, dtype: torch.dtype | None = None, attention: str | None = None) -> Any:
    """Return the model on meta: nothing is allocated, no directory is touched.

    The tokenizer is loaded only if the options require it: a preset with a `vocab_size` needs no access to the Hub.

    Args:
        resolved: The resolved model.
        dtype: Dtype of the parameters; None means float32.
        attention: Attention implementation; None means transformers' default.

    Raises:
        TokenizerError: The vocabulary size must come from the tokenizer, which cannot be loaded.
        ConfigurationError: The configuration class refuses a value.
    """
    if "vocab_size" not in resolved.config:
        with resolved.errors_at("tokenizer"):
            loaded = load_tokenizer(resolved.directory.tokenizer, base=resolved.base_of("tokenizer"))
        resolved = resolved.with_tokenizer(loaded.facts)
    config = make_config(resolved.definition, resolved.config)
    how = {"attn_implementation": attention} if attention is not None else {}
    with torch.device("meta"):
        return resolved.definition.model_class()._from_config(config, dtype=dtype or torch.float32, **how)
