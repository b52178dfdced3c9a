"""A part of this package's own: a block. It is handed plain numbers and modules, and never reads a configuration."""

from typing import Any

from torch import Tensor, nn

from forgather_core.parts.blocks import Block


class ScaledBlock(Block):
    """Pre-norm residual block with scaled branches: x = x + s attn(norm(x)); x = x + s mlp(norm(x)).

    Args:
        input_layernorm: Before attention.
        self_attn: Returns its result and its weights.
        post_attention_layernorm: Before the feed-forward layer.
        mlp: The feed-forward layer.
        scale: s.
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
        """[B, T, D] -> [B, T, D]; `kwargs` are attention's: mask, positions, cache, and what else it is told."""
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + self.scale * attended
        return hidden_states + self.scale * self.mlp(self.post_attention_layernorm(hidden_states))
