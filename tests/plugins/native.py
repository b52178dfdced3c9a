"""transformers' own classes with Forgather's weights, created from options and not from Forgather's configuration."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from .tiny import DEFINITIONS, OPTIONS

NATIVE = ("llama", "mistral", "qwen3", "smollm3")
# Default options of the tests; some defaults of transformers differ.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "mistral": {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "qwen3": {
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "max_window_layers": 0,
    },
    "smollm3": {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 5e6}},
}


def native(definition: str, source: nn.Module, *, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """Return transformers' model with the weights of a Forgather model, in eval mode.

    Args:
        definition: Whose class; a llama with a sliding window is a Mistral there.
        source: The model that provides weights and attention implementation.
        dtype: Of its weights; its angles are float32 whatever it is, as they are after `from_pretrained`.
        **options: The options of `source`.
    """
    given = OPTIONS | DEFINITIONS[definition].options | DEFAULTS[definition] | options
    given["rope_parameters"] = dict(given["rope_parameters"])  # configurations complete the mapping in place
    given["num_key_value_heads"] = given["num_key_value_heads"] or given["num_attention_heads"]
    windowed = given.get("sliding_window") is not None
    if definition == "qwen3":
        given["use_sliding_window"] = windowed
        given["head_dim"] = given["head_dim"] or given["hidden_size"] // given["num_attention_heads"]
    if definition == "smollm3":
        given["use_sliding_window"] = windowed
    name = {"llama": "Mistral" if windowed else "Llama", "mistral": "Mistral", "qwen3": "Qwen3", "smollm3": "SmolLM3"}[
        definition
    ]
    config = getattr(transformers, f"{name}Config")(**given)
    implementation = source.config._attn_implementation
    model = getattr(transformers, f"{name}ForCausalLM")._from_config(
        config, dtype=dtype, attn_implementation=implementation
    )
    model.load_state_dict(source.state_dict())
    return model.eval()
