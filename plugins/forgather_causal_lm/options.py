"""Options of causal_lm: flags, YAML keys and configuration fields."""

from collections.abc import Iterator
from dataclasses import dataclass

from forgather_core import inherited, option
from forgather_core.parts.option_groups import DropoutOptions, HeadOptions, WindowOptions


@dataclass(kw_only=True)
class TransformerOptions(WindowOptions, DropoutOptions, HeadOptions):
    """Options of causal_lm, with the dropout of the paper's "base" configuration (arXiv:1706.03762, table 3)."""

    embedding_dropout: float = inherited(DropoutOptions, "embedding_dropout", 0.1)
    layer_dropout: float = inherited(DropoutOptions, "layer_dropout", 0.1)
    activation_dropout: float = option(0.0, help="Dropout probability within the feed-forward layer", ge=0, lt=1)
    layer_norm_eps: float = option(1e-5, help="Layer Norm eps", gt=0)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check that the hidden size is even."""
        yield from super().problems()
        if self.hidden_size % 2:
            yield "hidden_size", f"must be even for sinusoidal positions, got {self.hidden_size}"
