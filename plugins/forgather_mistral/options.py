"""Options of mistral: flags, YAML keys and configuration fields."""

from dataclasses import dataclass

from forgather_core import inherited
from forgather_core.parts.option_groups import DecoderOptions, GroupedHeadOptions, RMSNormOptions, WindowOptions
from forgather_core.parts.rope_options import RopeOptions


@dataclass(kw_only=True)
class MistralOptions(RopeOptions, WindowOptions, RMSNormOptions, GroupedHeadOptions):
    """Options of mistral, with the defaults of Mistral 7B v0.1 (arXiv:2310.06825, table 1)."""

    intermediate_size: int = inherited(DecoderOptions, "intermediate_size", 14336)
    num_key_value_heads: int | None = inherited(GroupedHeadOptions, "num_key_value_heads", 8)
    sliding_window: int | None = inherited(WindowOptions, "sliding_window", 4096)
