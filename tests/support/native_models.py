"""Save tiny model directories of transformers' classes, with a tokenizer, which load offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoTokenizer

from forgather_core.checks.shared.model_under_test import ModelUnderTest
from forgather_core.tokenizers.lookup import shipped_tokenizers

SIZES = {
    "vocab_size": 2000,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Case: prefix of the transformers class, options besides the sizes, definition that reads the directory.
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("Llama", {}, "llama"),
    "llama, tied, llama3 RoPE": ("Llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}, "llama"),
    "mistral": ("Mistral", {"sliding_window": 9}, "mistral"),
    "mistral, no window": ("Mistral", {"sliding_window": None}, "mistral"),
    "mistral as a llama": ("Mistral", {"sliding_window": 9}, "llama"),
    "qwen3": ("Qwen3", {"head_dim": 16}, "qwen3"),
    "qwen3, half window": (
        "Qwen3",
        {"head_dim": 16, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
        "qwen3",
    ),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2, "pad_token_id": None}, "smollm3"),
    "smollm3, window": (
        "SmolLM3",
        {"use_sliding_window": True, "sliding_window": 9, "no_rope_layers": [0, 1, 1, 0], "pad_token_id": None},
        "smollm3",
    ),
}


def save_native(architecture: str, directory: Path, *, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """Save a model of a transformers class with large random weights, and return it.

    Args:
        architecture: Prefix of the class: such as `Llama`.
        directory: The directory; it also gets a tokenizer.
        dtype: Dtype of the saved weights.
        options: Fields of the configuration besides `SIZES`.
    """
    config = getattr(transformers, f"{architecture}Config")(**SIZES | options)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else noise * 1.5 * parameter.shape[-1] ** -0.5)
    model = model.to(dtype).eval()
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(shipped_tokenizers()["bpe-2k"]).save_pretrained(directory)
    return model


def write_type(kind: str, directory: Path, **values: Any) -> Path:
    """Write the configuration of a model type with its causal language model, and return its directory."""
    config = CONFIG_MAPPING[kind](**values)
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
    config.save_pretrained(directory)
    return directory


def subject_of_type(kind: str, place: Path, **values: Any) -> ModelUnderTest:
    """Return a model type as the checks get it."""
    directory = write_type(kind, place / "model", **values)
    (place / "work").mkdir()
    return ModelUnderTest(directory, place / "work")
