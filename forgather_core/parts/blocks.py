"""Blocks: how sub-layers, norms and residuals are put together."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from forgather_core.parts.arguments import positive, probability
from forgather_core.parts.caches import CACHE, the_cache


class Block(GradientCheckpointingLayer):
    """One layer of a decoder: [B, T, D] -> [B, T, D], recomputed in backward where that is asked for.

    A subclass computes it in `compute`.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]; the arguments are those of transformers' layers, in their order.

        The cache is taken by both of its names, and handed on by the one that the installed transformers uses.
        """
        return self.compute(
            hidden_states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            position_embeddings=position_embeddings,
            **{CACHE: the_cache(past_key_values, cache)},
            **kwargs,
        )

    def compute(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """[B, T, D] -> [B, T, D]; `kwargs` are attention's."""
        raise NotImplementedError


def unchanged(x: Tensor) -> Tensor:
    """Return the tensor. It stands in place of a dropout of 0, so that a layer has the modules of transformers' own."""
    return x


class PreNormBlock(Block):
    """Pre-norm residual block (arXiv:2002.04745, fig. 1b): x = x + drop(attn(norm(x))); x = x + drop(mlp(norm(x))).

    Args:
        input_layernorm: Before attention.
        self_attn: Returns its result and its weights.
        post_attention_layernorm: Before the feed-forward layer.
        mlp: The feed-forward layer.
        dropout: Of what either sub-layer adds, while training.
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

    def compute(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """[B, T, D] -> [B, T, D]; `kwargs` are attention's."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + self.drop(attended)
        return hidden_states + self.drop(self.mlp(self.post_attention_layernorm(hidden_states)))


class PostNormBlock(Block):
    """Post-norm residual block (arXiv:1706.03762, sec. 3.1): x = norm(x + drop(attn(x))); x = norm(x + drop(mlp(x))).

    Args:
        self_attn: Returns its result and its weights.
        post_attention_layernorm: After attention and its residual.
        mlp: The feed-forward layer.
        post_feedforward_layernorm: After the feed-forward layer and its residual.
        dropout: Of what either sub-layer adds, while training.
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

    def compute(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """[B, T, D] -> [B, T, D]; `kwargs` are attention's."""
        attended, _ = self.self_attn(hidden_states=hidden_states, **kwargs)
        hidden_states = self.post_attention_layernorm(self.add(hidden_states, self.drop(attended)))
        return self.post_feedforward_layernorm(self.add(hidden_states, self.drop(self.mlp(hidden_states))))

    def add(self, residual: Tensor, branch: Tensor) -> Tensor:
        """alpha * residual + branch, in one pass."""
        return torch.add(branch, residual, alpha=self.alpha)


class DeepNormBlock(PostNormBlock):
    """DeepNorm (arXiv:2203.00555, fig. 2): x = norm(alpha * x + drop(attn(x))); x = norm(alpha * x + drop(mlp(x))).

    Args:
        alpha: Weight of the residual; above 1 it keeps the model's update bounded however deep it is.
        **parts: Those of PostNormBlock.
    """

    def __init__(self, *, alpha: float, **parts: Any) -> None:
        super().__init__(**parts)
        positive(alpha=alpha)
        self.alpha = alpha
