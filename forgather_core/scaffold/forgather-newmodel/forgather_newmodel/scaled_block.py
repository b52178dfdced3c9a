"""A custom part: a residual block. Parts take modules and plain values, never a configuration."""

from typing import Any

from torch import Tensor, nn

from forgather_core.parts.blocks import Block


class ScaledBlock(Block):
    """Pre-norm residual block with scaled branches: x = x + s attn(norm(x)); x = x + s mlp(norm(x)).

    Args:
        input_layernorm: Normalization before attention.
        self_attn: Attention; returns its output and the attention weights.
        post_attention_layernorm: Normalization before the feed-forward layer.
        mlp: Feed-forward layer.
        scale: Scale s of both branches.
    """

    def __init__(
        self,
        *,
        input_layernorm: nn.Module,
        self_attn: nn.Module,
        post_attention_layernorm: nn.Module,
        mlp: nn.Module,
        scale: float,
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.mlp = mlp
        self.input_layernorm = input_layernorm
        self.post_attention_layernorm = post_attention_layernorm
        self.scale = scale

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Compute the block.

        Args:
            hidden_states: [B, T, D].
            kwargs: Arguments of attention: mask, position embeddings, cache, ...

        Returns:
            Hidden states, [B, T, D].
        """
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + self.scale * attended
        return hidden_states + self.scale * self.mlp(self.post_attention_layernorm(hidden_states))
