"""Options of deepone: flags, YAML keys and configuration fields."""

from dataclasses import dataclass

from forgather_core import inherited
from forgather_core.parts.option_groups import (
    AlibiOptions,
    DropoutOptions,
    GroupedHeadOptions,
    RMSNormOptions,
    WindowOptions,
)


@dataclass(kw_only=True)
class DeeponeOptions(AlibiOptions, WindowOptions, RMSNormOptions, DropoutOptions, GroupedHeadOptions):
    """Options of deepone; presets set the sizes."""

    rms_norm_eps: float = inherited(RMSNormOptions, "rms_norm_eps", 1e-6)
