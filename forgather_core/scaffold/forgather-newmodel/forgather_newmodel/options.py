"""The options of newmodel: flags, YAML keys and configuration fields. Must not import torch, as `--help` reads them."""

from dataclasses import dataclass
from typing import Any, Literal

from forgather_core import inherited, option
from forgather_core.parts.option_groups import DecoderOptions, GroupedHeadOptions, RMSNormOptions, WindowOptions
from forgather_core.parts.rope_options import RopeOptions


@dataclass(kw_only=True)
class NewModelOptions(RopeOptions, WindowOptions, RMSNormOptions, GroupedHeadOptions):
    """Options of newmodel: those of the option groups, and two of its own."""

    # An option of a group with another default.
    num_hidden_layers: int = inherited(DecoderOptions, "num_hidden_layers", 16)

    residual_scale: float | None = option(
        None, help="Scale of both residual branches (default: 1 / sqrt(2 num_hidden_layers))", gt=0
    )
    activation: Literal["silu", "gelu", "relu"] = option("silu", help="Activation function of the feed-forward gate")

    def derived(self) -> dict[str, Any]:
        """Return the values of options left at null. For rules between options, add `problems()`."""
        by_depth = (2 * self.num_hidden_layers) ** -0.5
        return super().derived() | {"residual_scale": self.residual_scale or by_depth}
