"""Options of llama: flags, YAML keys and configuration fields."""

from collections.abc import Iterator
from dataclasses import dataclass

from forgather_core.parts.option_groups import GroupedHeadOptions, RMSNormOptions, WindowOptions
from forgather_core.parts.rope_options import RopeOptions


@dataclass(kw_only=True)
class LlamaOptions(RopeOptions, WindowOptions, RMSNormOptions, GroupedHeadOptions):
    """Options of llama, with the defaults of Llama 2 7B (arXiv:2307.09288)."""

    def native_problems(self) -> Iterator[str]:
        """Check for a sliding window, which transformers' Llama does not support."""
        yield from super().native_problems()
        if self.sliding_window is not None:
            yield "transformers' Llama does not support sliding_window (mistral does)"
