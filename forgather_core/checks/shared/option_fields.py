"""The options among the fields of a configuration."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace
from typing import Any, Literal

from ...option import METADATA_KEY

# Fields that mean the same in all classes of transformers that have them.
_ALWAYS = frozenset({  # they have an effect whatever the others are
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps", "norm_epsilon",
    "hidden_act", "hidden_activation", "activation_function", "initializer_range", "tie_word_embeddings",
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "logit_scale", "logits_scaling",
    "embedding_multiplier", "residual_multiplier", "attention_multiplier",
})  # fmt: skip
_KNOWN = _ALWAYS | {
    "attention_bias", "mlp_bias", "use_bias", "qkv_bias", "use_qk_norm",
    "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "resid_pdrop", "resid_dropout", "embd_pdrop",
    "embedding_dropout", "residual_dropout", "hidden_dropout", "hidden_dropout_prob", "dropout",
    "num_experts_per_tok", "norm_topk_prob", "routed_scaling_factor",
}  # fmt: skip
_ACTIVATIONS = ("gelu", "relu", "silu")


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


def known_options(config: Any) -> list[Any]:
    """Return the fields of another class's configuration whose meaning is known, in the form of options."""
    if config.get_text_config() is not config or not dataclasses.is_dataclass(config):
        return []  # a part of a larger configuration
    declared = {field.name for field in dataclasses.fields(config)}
    values: dict[str, Any] = config.to_dict()  # type: ignore[union-attr]
    names = sorted(_KNOWN & values.keys() & declared)
    return [
        SimpleNamespace(name=name, type=_kind(name, values[name]), metadata={METADATA_KEY: None})
        for name in names
        if values[name] is not None
    ]


def _kind(name: str, value: Any) -> Any:
    if isinstance(value, str) and "activation" in name.replace("hidden_act", "activation"):
        return Literal[_ACTIVATIONS]
    return type(value)


def may_depend(name: str, source: str) -> bool:
    """Return whether a known option may have an effect in combination with others only: the model reads it."""
    return name not in _ALWAYS and re.search(rf"\.{name}\b", source) is not None
