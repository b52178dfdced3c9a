"""The options of llama: flags, YAML keys and fields of its configuration."""

from collections.abc import Iterator
from dataclasses import dataclass

from forgather_core.parts.option_groups import GroupedHeadOptions, RMSNormOptions, WindowOptions
from forgather_core.parts.rope_options import RopeOptions


@dataclass(kw_only=True)
class LlamaOptions(RopeOptions, WindowOptions, RMSNormOptions, GroupedHeadOptions):
    """The defaults are those of Llama 2 7B (arXiv:2307.09288)."""

    def native_problems(self) -> Iterator[str]:
        """transformers' Llama attends to everything."""
        yield from super().native_problems()
        if self.sliding_window is not None:
            yield "transformers' Llama has no sliding_window: a llama with one is a mistral (-t mistral)"
