"""Blocks: how sub-layers, norms and residuals are put together."""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer


class Block(GradientCheckpointingLayer):
    """One layer of a decoder: [B, T, D] -> [B, T, D], recomputed in backward where that is asked for."""


class PreNormBlock(Block):
    """Pre-norm residual block (arXiv:2002.04745, fig. 1b): x = x + attn(norm(x)); x = x + mlp(norm(x)).

    Args:
        input_layernorm: Before attention.
        self_attn: Returns its result and its weights.
        post_attention_layernorm: Before the feed-forward layer.
        mlp: The feed-forward layer.
    """

    def __init__(
        self,
        *,
        input_layernorm: nn.Module,
        self_attn: nn.Module,
        post_attention_layernorm: nn.Module,
        mlp: nn.Module,
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.mlp = mlp
        self.input_layernorm = input_layernorm
        self.post_attention_layernorm = post_attention_layernorm

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """[B, T, D] -> [B, T, D]; `kwargs` are attention's."""
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
