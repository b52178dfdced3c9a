"""Tiny models with weights large enough that a leak or a lost token shows in the logits."""

from __future__ import annotations

from typing import Any

import torch
from forgather_llama.configuration_llama import LlamaConfig
from forgather_llama.modeling_llama import LlamaForCausalLM
from torch import Tensor, nn
from transformers import LlamaConfig as NativeConfig
from transformers import LlamaForCausalLM as NativeLlama
from transformers import MistralConfig, MistralForCausalLM

OPTIONS: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
TOLERANCE = 1e-5

ROPE: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.5},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.5, 2.0, 3.0, 4.0],
        "factor": 2.0,
        "original_max_position_embeddings": 16,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}


def copied(options: dict[str, Any]) -> dict[str, Any]:
    """The options with a RoPE mapping of their own: configurations complete theirs in place."""
    rope = options.get("rope_parameters")
    return options | ({"rope_parameters": dict(rope)} if rope else {})


def tiny(*, seed: int = 0, attention: str = "sdpa", **options: Any) -> LlamaForCausalLM:
    """Our model in eval mode, with strong random weights."""
    model = LlamaForCausalLM(LlamaConfig(**copied(OPTIONS | options), attn_implementation=attention))
    strengthen(model, seed)
    return model.eval()


def strengthen(model: nn.Module, seed: int = 0) -> None:
    """Draw all weights anew, so large that attention is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * drawn if "norm" in name else drawn * 1.5 * parameter.shape[-1] ** -0.5)


def native(ours: LlamaForCausalLM, **options: Any) -> nn.Module:
    """transformers' model with the same weights: Mistral with a sliding window, else Llama."""
    options = copied(OPTIONS | options)
    if options.get("sliding_window"):
        model: Any = MistralForCausalLM(MistralConfig(**options))
    else:
        model = NativeLlama(NativeConfig(**options))
    model.load_state_dict(ours.state_dict())
    model.set_attn_implementation(ours.config._attn_implementation)
    return model.eval()


def tokens(rows: int, length: int, seed: int = 1) -> Tensor:
    """Random token ids without special ones."""
    return torch.randint(3, OPTIONS["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(seed))


def difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    assert a.shape == b.shape
    return (a.float() - b.float()).abs().max().item()
