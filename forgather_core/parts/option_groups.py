"""Groups of options that several definitions share. A definition's options class inherits groups, in reverse order.

Standard library only, like every options file: `--help` and the YAML schema read them without torch. Groups are only
inherited, and the classes that inherit them generate the methods of a dataclass: here they would cost start-up time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from forgather_core.option import option


class OptionGroup:
    """Base of option groups. Each method adds to the result of the other groups."""

    def derived(self) -> dict[str, Any]:
        """Return the values of options that are null."""
        return {}

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield the broken rules between options, as (option, sentence)."""
        yield from ()

    def unsupported_attention(self) -> dict[str, str]:
        """Return attention implementations that cannot compute this model: name -> reason and alternative."""
        return {}

    def native_problems(self) -> Iterator[str]:
        """Yield the reasons why, with these options, transformers' own class cannot replace this model."""
        yield from ()


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class DecoderOptions(OptionGroup):
    """Options of every decoder. The default sizes are those of Llama 2 7B (arXiv:2307.09288)."""

    hidden_size: int = option(4096, help="Model hidden dimension size (d_model)", ge=1)
    intermediate_size: int = option(11008, help="Feedforward dimension", ge=1)
    num_hidden_layers: int = option(32, help="Number of hidden layers", ge=1)
    attention_dropout: float = option(0.0, help="Attention dropout probability", ge=0, lt=1)
    tie_word_embeddings: bool = option(False, help="Tie input and output word embeddings")
    vocab_size: int | None = option(None, help="Size of the vocabulary (from the tokenizer unless set)", ge=1)


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class HeadOptions(DecoderOptions):
    """Multi-head attention with heads of size hidden_size / num_attention_heads."""

    num_attention_heads: int = option(32, help="Number of attention heads", ge=1)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check that the number of heads divides the hidden size."""
        yield from super().problems()
        heads = self.num_attention_heads
        if self.hidden_size % heads:
            yield "num_attention_heads", f"must divide hidden_size ({self.hidden_size}), got {heads}"

    def unsupported_attention(self) -> dict[str, str]:
        """Add flash_attention_2 if the head size exceeds the limit of flash-attn."""
        return super().unsupported_attention() | flash_limit("head_dim", self.hidden_size // self.num_attention_heads)


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class GroupedHeadOptions(DecoderOptions):
    """Grouped-query attention (arXiv:2305.13245) with heads of any size."""

    num_attention_heads: int = option(32, help="Number of query heads (and KV heads, if otherwise unspecified)", ge=1)
    num_key_value_heads: int | None = option(None, help="Number of Key/Value heads", ge=1)
    head_dim: int | None = option(None, help="Size of a head (default: hidden_size / num_attention_heads)", ge=1)

    def derived(self) -> dict[str, Any]:
        """Return num_key_value_heads (default: num_attention_heads) and head_dim (default: hidden_size / heads)."""
        return super().derived() | {
            "num_key_value_heads": self.num_key_value_heads or self.num_attention_heads,
            "head_dim": self.head_dim or self.hidden_size // self.num_attention_heads,
        }

    def problems(self) -> Iterator[tuple[str, str]]:
        """Check that num_attention_heads divides hidden_size, and num_key_value_heads divides num_attention_heads."""
        yield from super().problems()
        heads, hidden_size = self.num_attention_heads, self.hidden_size
        if self.head_dim is None and hidden_size % heads:
            yield (
                "num_attention_heads",
                f"must divide hidden_size ({hidden_size}), got {heads}: change one, or set head_dim",
            )
        if self.num_key_value_heads is not None and heads % self.num_key_value_heads:
            yield "num_key_value_heads", f"must divide num_attention_heads ({heads}), got {self.num_key_value_heads}"

    def unsupported_attention(self) -> dict[str, str]:
        """Add flash_attention_2 if the head size exceeds the limit of flash-attn."""
        return super().unsupported_attention() | flash_limit("head_dim", self.derived()["head_dim"])


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class RMSNormOptions(OptionGroup):
    """Root mean square layer normalization."""

    rms_norm_eps: float = option(1e-5, help="RMS Norm eps", gt=0)


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class WindowOptions(OptionGroup):
    """Sliding window attention."""

    sliding_window: int | None = option(None, help="Sliding window size. 'null' for disabled", ge=2)


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class DropoutOptions(OptionGroup):
    """Dropout, except that of attention."""

    embedding_dropout: float = option(0.0, help="Dropout probability of the embeddings", ge=0, lt=1)
    layer_dropout: float = option(0.0, help="Dropout probability of the residual branches", ge=0, lt=1)


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class AlibiOptions(OptionGroup):
    """Linear biases (arXiv:2108.12409)."""

    alibi_slopes: Literal["paper", "half"] = option(
        "half", help="ALiBi slopes: the paper's, or nonzero for half of the heads (the others start at zero)"
    )
    alibi_trainable: bool = option(True, help="Train the slopes of ALiBi")

    def unsupported_attention(self) -> dict[str, str]:
        """Add flash_attention_2 if slopes are trainable: flash-attn computes no gradient for them."""
        refused = super().unsupported_attention()
        if self.alibi_trainable:
            refused["flash_attention_2"] = (
                "it computes no gradient for the slopes of ALiBi; use sdpa or flex_attention, or alibi_trainable: false"
            )
        return refused


def flash_limit(name: str, head_dim: int) -> dict[str, str]:
    """Return the entry of `unsupported_attention` for a head size above the limit of flash-attn, or no entry."""
    if head_dim <= 256:
        return {}
    return {"flash_attention_2": f"{name} must be at most 256, got {head_dim}; use sdpa or flex_attention"}
