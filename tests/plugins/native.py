"""transformers' own classes with the weights of ours, made from options and not from our configuration."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from .tiny import DEFINITIONS, OPTIONS

NATIVE = ("llama", "mistral", "qwen3")
# What our options are where a test says nothing; transformers' defaults are others in places.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "mistral": {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "qwen3": {
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "max_window_layers": 0,
    },
}


def native(definition: str, ours: nn.Module, *, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """transformers' model with the weights of ours, in eval mode.

    Args:
        definition: Whose class; a llama with a sliding window is a Mistral there.
        ours: The model whose weights and attention implementation it gets.
        dtype: Of its weights; its angles are float32 whatever it is, as they are after `from_pretrained`.
        **options: Those that `ours` was made with.
    """
    given = OPTIONS | DEFINITIONS[definition].options | DEFAULTS[definition] | options
    given["rope_parameters"] = dict(given["rope_parameters"])  # configurations complete theirs in place
    given["num_key_value_heads"] = given["num_key_value_heads"] or given["num_attention_heads"]
    windowed = given.get("sliding_window") is not None
    if definition == "qwen3":
        given["use_sliding_window"] = windowed
        given["head_dim"] = given["head_dim"] or given["hidden_size"] // given["num_attention_heads"]
    name = {"llama": "Mistral" if windowed else "Llama", "mistral": "Mistral", "qwen3": "Qwen3"}[definition]
    config = getattr(transformers, f"{name}Config")(**given)
    implementation = ours.config._attn_implementation
    model = getattr(transformers, f"{name}ForCausalLM")._from_config(
        config, dtype=dtype, attn_implementation=implementation
    )
    model.load_state_dict(ours.state_dict())
    return model.eval()
