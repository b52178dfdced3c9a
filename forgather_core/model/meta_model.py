"""Build a definition's model on the meta device from its own code, before anything is written."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from ..settings.resolved_model import ResolvedModel
from ..tokenizers.lookup import load_tokenizer
from .hf_config import make_config
from .no_init import no_init_weights


@dataclass(frozen=True)
class Template:
    """Class and configuration of a model, to create further models even if its directory has changed.

    Args:
        model_class: The class of the model.
        config: A copy of its configuration.
    """

    model_class: Any
    config: Any

    @classmethod
    def of(cls, model: Any) -> Template:
        """Return the template of a model."""
        return cls(type(model), copy.deepcopy(model.config))

    def on_meta(self, *, dtype: torch.dtype, attention: str | None = None) -> Any:
        """Return a new model on meta.

        Args:
            dtype: Dtype of the parameters.
            attention: Attention implementation; None means that of the configuration.
        """
        kwargs = {"attn_implementation": attention} if attention is not None else {}
        with torch.device("meta"), no_init_weights():
            return self.model_class._from_config(copy.deepcopy(self.config), dtype=dtype, **kwargs)


def meta_model(resolved: ResolvedModel, *, dtype: torch.dtype | None = None, attention: str | None = None) -> Any:
    """Build the model on meta. Nothing is allocated or written.

    The tokenizer is loaded only if the options require it: a preset with a `vocab_size` needs no access to the Hub.

    Args:
        resolved: The resolved model.
        dtype: Dtype of the parameters; None means float32.
        attention: Attention implementation; None means transformers' default.

    Raises:
        TokenizerError: The options have no vocabulary size, and the tokenizer cannot be loaded.
        ConfigurationError: The configuration class rejects a value.
    """
    if "vocab_size" not in resolved.config:
        with resolved.errors_at("tokenizer"):
            loaded = load_tokenizer(resolved.directory.tokenizer, base=resolved.base_of("tokenizer"))
        resolved = resolved.with_tokenizer(loaded.facts)
    config = make_config(resolved.definition, resolved.config)
    kwargs = {"attn_implementation": attention} if attention is not None else {}
    with torch.device("meta"):
        return resolved.definition.model_class()._from_config(config, dtype=dtype or torch.float32, **kwargs)
