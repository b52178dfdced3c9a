"""Decoder blocks: attention, feed-forward layer, norms and residual connections."""

from typing import Any

import torch
from torch import Tensor, nn

from forgather_core.parts.arguments import positive, probability
from forgather_core.parts.block import Block, with_values


def unchanged(x: Tensor) -> Tensor:
    """Return the tensor. Replaces a dropout of 0, so that a layer has the same modules as transformers' layer."""
    return x


class PreNormBlock(Block):
    """Pre-norm residual block (arXiv:2002.04745, fig. 1b): x = x + drop(attn(norm(x))); x = x + drop(mlp(norm(x))).

    Args:
        input_layernorm: Norm before attention.
        self_attn: Attention; returns its result and its weights.
        post_attention_layernorm: Norm before the feed-forward layer.
        mlp: The feed-forward layer.
        dropout: Dropout probability of both residual branches in training.

    Raises:
        ValueError: The dropout is not in [0, 1).
    """

    def __init__(
        self,
        *,
        input_layernorm: nn.Module,
        self_attn: nn.Module,
        post_attention_layernorm: nn.Module,
        mlp: nn.Module,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        probability(dropout=dropout)
        self.self_attn = self_attn
        self.mlp = mlp
        self.input_layernorm = input_layernorm
        self.post_attention_layernorm = post_attention_layernorm
        self.drop = nn.Dropout(dropout) if dropout else unchanged

    def compute(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        """Compute [B, T, D] -> [B, T, D]; `kwargs` are the arguments of attention."""
        attended, values = self.mix(self.self_attn, self.input_layernorm(hidden_states), kwargs)
        hidden_states = hidden_states + self.drop(attended)
        result, more = self.feed(self.mlp, self.post_attention_layernorm(hidden_states), kwargs)
        return with_values(hidden_states + self.drop(result), values + more)


class PostNormBlock(Block):
    """Post-norm residual block (arXiv:1706.03762, sec. 3.1): x = norm(x + drop(attn(x))); x = norm(x + drop(mlp(x))).

    Args:
        self_attn: Attention; returns its result and its weights.
        post_attention_layernorm: Norm after attention and its residual connection.
        mlp: The feed-forward layer.
        post_feedforward_layernorm: Norm after the feed-forward layer and its residual connection.
        dropout: Dropout probability of both residual branches in training.

    Raises:
        ValueError: The dropout is not in [0, 1).
    """

    alpha = 1.0  # weight of the residual

    def __init__(
        self,
        *,
        self_attn: nn.Module,
        post_attention_layernorm: nn.Module,
        mlp: nn.Module,
        post_feedforward_layernorm: nn.Module,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        probability(dropout=dropout)
        self.self_attn = self_attn
        self.mlp = mlp
        self.post_attention_layernorm = post_attention_layernorm
        self.post_feedforward_layernorm = post_feedforward_layernorm
        self.drop = nn.Dropout(dropout) if dropout else unchanged

    def compute(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        """Compute [B, T, D] -> [B, T, D]; `kwargs` are the arguments of attention."""
        attended, values = self.mix(self.self_attn, hidden_states, kwargs)
        hidden_states = self.post_attention_layernorm(self.add(hidden_states, self.drop(attended)))
        result, more = self.feed(self.mlp, hidden_states, kwargs)
        hidden_states = self.post_feedforward_layernorm(self.add(hidden_states, self.drop(result)))
        return with_values(hidden_states, values + more)

    def add(self, residual: Tensor, branch: Tensor) -> Tensor:
        """Return alpha * residual + branch, in one kernel."""
        return torch.add(branch, residual, alpha=self.alpha)


class DeepNormBlock(PostNormBlock):
    """DeepNorm (arXiv:2203.00555, fig. 2): x = norm(alpha * x + drop(attn(x))); x = norm(alpha * x + drop(mlp(x))).

    Args:
        alpha: Weight of the residual; above 1, it bounds the model's update at any depth.
        **parts: The arguments of PostNormBlock.

    Raises:
        ValueError: `alpha` is not above 0, or the dropout is not in [0, 1).
    """

    def __init__(self, *, alpha: float, **parts: Any) -> None:
        super().__init__(**parts)
        positive(alpha=alpha)
        self.alpha = alpha
