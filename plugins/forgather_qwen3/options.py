"""Options of qwen3: flags, YAML keys and configuration fields."""

from dataclasses import dataclass
from typing import Any

from forgather_core import inherited, option
from forgather_core.parts.option_groups import DecoderOptions, GroupedHeadOptions, RMSNormOptions, WindowOptions
from forgather_core.parts.rope_options import RopeOptions


@dataclass(kw_only=True)
class Qwen3Options(RopeOptions, WindowOptions, RMSNormOptions, GroupedHeadOptions):
    """Options of qwen3, with the defaults of Qwen3 8B (arXiv:2505.09388, table 1)."""

    intermediate_size: int = inherited(DecoderOptions, "intermediate_size", 12288)
    num_hidden_layers: int = inherited(DecoderOptions, "num_hidden_layers", 36)
    num_key_value_heads: int | None = inherited(GroupedHeadOptions, "num_key_value_heads", 8)
    head_dim: int | None = inherited(GroupedHeadOptions, "head_dim", 128)
    rms_norm_eps: float = inherited(RMSNormOptions, "rms_norm_eps", 1e-6)
    max_window_layers: int = option(
        0, help="Number of layers, from the first, that do not use the sliding window", ge=0
    )
    rope_parameters: dict[str, Any] = inherited(
        RopeOptions, "rope_parameters", {"rope_type": "default", "rope_theta": 1000000.0}
    )
