"""Tiny models of every definition, with weights so large that a leak or a lost token shows in the logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from forgather_causal_lm.modeling_causal_lm import TransformerForCausalLM
from forgather_deepone.modeling_deepone import DeeponeForCausalLM
from forgather_llama.modeling_llama import LlamaForCausalLM
from forgather_mistral.modeling_mistral import MistralForCausalLM
from forgather_qwen3.modeling_qwen3 import Qwen3ForCausalLM
from forgather_single_head.modeling_single_head import SingleHeadForCausalLM
from forgather_smollm3.modeling_smollm3 import SmolLM3ForCausalLM
from torch import Tensor, nn

OPTIONS: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}
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


@dataclass(frozen=True)
class Tiny:
    """A definition's class, the options of its tiny model, and variants that change attention."""

    model: Any
    options: dict[str, Any]
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)


WINDOW = {"window": {"sliding_window": 5}}
TIED = {"tied": {"tie_word_embeddings": True}}
DEFINITIONS: dict[str, Tiny] = {
    "causal_lm": Tiny(
        TransformerForCausalLM,
        {"num_attention_heads": 4, "embedding_dropout": 0.0, "layer_dropout": 0.0},
        WINDOW | TIED,
    ),
    "deepone": Tiny(DeeponeForCausalLM, GROUPED, WINDOW | TIED | {"fixed slopes": {"alibi_trainable": False}}),
    "llama": Tiny(LlamaForCausalLM, GROUPED | {"max_position_embeddings": 64}, WINDOW | TIED),
    "mistral": Tiny(MistralForCausalLM, GROUPED | {"max_position_embeddings": 64, "sliding_window": 5}, TIED),
    "qwen3": Tiny(
        Qwen3ForCausalLM,
        GROUPED | {"max_position_embeddings": 64, "head_dim": 16},
        WINDOW | TIED | {"half window": {"sliding_window": 5, "max_window_layers": 1}},
    ),
    "single_head": Tiny(
        SingleHeadForCausalLM, {"tie_word_embeddings": False}, WINDOW | {"tied": {"tie_word_embeddings": True}}
    ),
    "smollm3": Tiny(
        SmolLM3ForCausalLM,
        GROUPED | {"max_position_embeddings": 64, "no_rope_layer_interval": 2, "tie_word_embeddings": False},
        TIED
        | {
            "half window": {"sliding_window": 5},
            "half window first": {
                "sliding_window": 5,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
        },
    ),
}
# One case for each definition as it is, and one for each of its variants: "deepone", "deepone, window", ...
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in DEFINITIONS} | {
    f"{name}, {variant}": (name, options)
    for name, definition in DEFINITIONS.items()
    for variant, options in definition.variants.items()
}


def config_of(definition: str, *, attention: str = "sdpa", **options: Any) -> Any:
    """Return the configuration of a tiny model; a RoPE mapping is copied, since configurations complete it in place."""
    tiny = DEFINITIONS[definition]
    options = OPTIONS | tiny.options | options
    if rope := options.get("rope_parameters"):
        options["rope_parameters"] = dict(rope)
    return tiny.model.config_class(**options, attn_implementation=attention)


def tiny(definition: str, *, seed: int = 0, attention: str = "sdpa", **options: Any) -> Any:
    """Return a tiny model in eval mode with large random weights."""
    model = DEFINITIONS[definition].model(config_of(definition, attention=attention, **options))
    randomize_weights(model, seed)
    return model.eval()


def randomize_weights(model: nn.Module, seed: int = 0) -> None:
    """Fill all weights randomly, large enough that attention is far from uniform and no norm or bias is trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if name.endswith("slopes"):
                parameter.copy_(0.3 + 0.1 * drawn)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * drawn)
            elif "norm" in name:
                parameter.copy_(1 + 0.2 * drawn)
            else:
                parameter.copy_(drawn * 1.5 * parameter.shape[-1] ** -0.5)


def tokens(rows: int, length: int, seed: int = 1) -> Tensor:
    """Return random token ids without special tokens."""
    return torch.randint(3, OPTIONS["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(seed))


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference."""
    assert a.shape == b.shape
    return (a.float() - b.float()).abs().max().item()


def slopes_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the slopes of ALiBi by name."""
    return {name: p for name, p in model.named_parameters() if name.endswith("slopes")}
