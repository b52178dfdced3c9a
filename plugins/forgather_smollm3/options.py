"""Options of smollm3: flags, YAML keys and configuration fields."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from forgather_core import inherited, option
from forgather_core.parts.layer_type_options import FULL, SLIDING, LayerTypeOptions, short_list
from forgather_core.parts.option_groups import DecoderOptions, GroupedHeadOptions, RMSNormOptions
from forgather_core.parts.rope_options import RopeOptions


@dataclass(kw_only=True)
class SmolLM3Options(RopeOptions, LayerTypeOptions, RMSNormOptions, GroupedHeadOptions):
    """Options of smollm3, with the defaults of SmolLM3 3B (huggingface.co/HuggingFaceTB/SmolLM3-3B)."""

    hidden_size: int = inherited(DecoderOptions, "hidden_size", 2048)
    num_hidden_layers: int = inherited(DecoderOptions, "num_hidden_layers", 36)
    num_attention_heads: int = inherited(GroupedHeadOptions, "num_attention_heads", 16)
    num_key_value_heads: int | None = inherited(GroupedHeadOptions, "num_key_value_heads", 4)
    rms_norm_eps: float = inherited(RMSNormOptions, "rms_norm_eps", 1e-6)
    rope_parameters: dict[str, Any] = inherited(
        RopeOptions, "rope_parameters", {"rope_type": "default", "rope_theta": 5000000.0}
    )
    tie_word_embeddings: bool = inherited(DecoderOptions, "tie_word_embeddings", True)
    no_rope_layer_interval: int = option(4, help="Every layer with a multiple of this number has no RoPE (NoPE)", ge=1)
    no_rope_layers: list[int] | None = option(
        None, help="For each layer, 1 with RoPE or 0 without (default: by no_rope_layer_interval)"
    )

    def rotary_layers(self) -> list[int]:
        """Return 1 for each layer with RoPE, and 0 for the others."""
        every, layers = self.no_rope_layer_interval, self.num_hidden_layers
        default = [int(i % every != 0) for i in range(1, layers + 1)]
        return default if self.no_rope_layers is None else self.no_rope_layers[:layers]

    def default_layer_types(self) -> list[str]:
        """Return a sliding window for the layers without RoPE, if there is one."""
        window = self.sliding_window is not None
        return [SLIDING if window and not rotary else FULL for rotary in self.rotary_layers()]

    def derived(self) -> dict[str, Any]:
        """Add no_rope_layers."""
        return super().derived() | {"no_rope_layers": self.rotary_layers()}

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check that no_rope_layers has a 0 or 1 for each layer."""
        yield from super().problems()
        if self.no_rope_layers is None:
            return
        if wrong := [value for value in self.no_rope_layers if isinstance(value, bool) or value not in (0, 1)]:
            yield "no_rope_layers", f"must contain 0 and 1 only, got {wrong[0]!r}"
        yield from short_list("no_rope_layers", self.no_rope_layers, self.num_hidden_layers)
