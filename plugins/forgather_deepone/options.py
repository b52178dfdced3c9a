"""The options of deepone: flags, YAML keys and fields of its configuration."""

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
    """Sizes come from a preset."""

    rms_norm_eps: float = inherited(RMSNormOptions, "rms_norm_eps", 1e-6)
