"""The options of single_head: flags, YAML keys and fields of its configuration."""

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
    """Sizes come from a preset. There is one head a layer, as wide as the model."""

    tie_word_embeddings: bool = inherited(DecoderOptions, "tie_word_embeddings", True)

    def unsupported_attention(self) -> dict[str, str]:
        """Its slopes are trained, and flash-attn gives them no gradient."""
        refused = super().unsupported_attention()
        refused["flash_attention_2"] = "it gives the slope of ALiBi no gradient; use sdpa or flex_attention"
        return refused
