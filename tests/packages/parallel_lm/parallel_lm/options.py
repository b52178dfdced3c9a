"""Options."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from forgather_core import option


@dataclass(kw_only=True)
class ParallelOptions:
    """Options of the parallel model."""

    hidden_size: int = option(64, help="Model hidden dimension size (d_model)", ge=1)
    num_hidden_layers: int = option(2, help="Number of hidden layers", ge=1)
    num_attention_heads: int = option(2, help="Number of heads", ge=1)
    branch_scale: float = option(0.5, help="Factor of both branches", gt=0)
    activation: Literal["silu", "relu"] = option("silu", help="Of the feed-forward layer")
    tie_word_embeddings: bool = option(False, help="Tie input and output word embeddings")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Rules between options."""
        if self.hidden_size % (2 * self.num_attention_heads):
            yield "num_attention_heads", f"{self.num_attention_heads} heads need an even share of {self.hidden_size}"
