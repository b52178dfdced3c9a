"""The options of older_lm: flags, YAML keys and fields of its configuration. No torch: `--help` reads this file."""

from dataclasses import dataclass
from typing import Any, Literal

from forgather_core import inherited, option
from forgather_core.parts.option_groups import DecoderOptions, GroupedHeadOptions, RMSNormOptions, WindowOptions
from forgather_core.parts.rope_options import RopeOptions


@dataclass(kw_only=True)
class OlderLmOptions(RopeOptions, WindowOptions, RMSNormOptions, GroupedHeadOptions):
    """Those of the groups above, the first last, and two of its own."""

    # One of a group, with another default.
    num_hidden_layers: int = inherited(DecoderOptions, "num_hidden_layers", 16)

    residual_scale: float | None = option(
        None, help="Weight of what each branch adds (default: 1 / sqrt(2 num_hidden_layers))", gt=0
    )
    activation: Literal["silu", "gelu", "relu"] = option("silu", help="Of the gate of the feed-forward layer")

    def derived(self) -> dict[str, Any]:
        """The values that stand for options left at null. Rules between options would be `problems()`."""
        by_depth = (2 * self.num_hidden_layers) ** -0.5
        return super().derived() | {"residual_scale": self.residual_scale or by_depth}
