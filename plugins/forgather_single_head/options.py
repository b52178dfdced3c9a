"""Options of single_head: flags, YAML keys and configuration fields."""

from dataclasses import dataclass

from forgather_core import inherited
from forgather_core.parts.option_groups import (
    DecoderOptions,
    DropoutOptions,
    RMSNormOptions,
    WindowOptions,
)


@dataclass(kw_only=True)
class SingleHeadOptions(WindowOptions, RMSNormOptions, DropoutOptions, DecoderOptions):
    """Options of single_head; presets set the sizes. Each layer has one head as wide as the model."""

    tie_word_embeddings: bool = inherited(DecoderOptions, "tie_word_embeddings", True)

    def unsupported_attention(self) -> dict[str, str]:
        """Exclude flash-attn, which computes no gradients for the trainable slopes."""
        unsupported = super().unsupported_attention()
        unsupported["flash_attention_2"] = "it computes no gradient for the slopes of ALiBi; use sdpa or flex_attention"
        return unsupported
