"""Multi-head attention (arXiv:1706.03762, sec. 3.2), grouped-query included (arXiv:2305.13245).

Shapes: B batch, T query length, S key length, H query heads, G key/value heads, K head dimension, D hidden size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from forgather_core.parts.rotation import rotate

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


def eager_attention(
    module: Any,
    query_BHTK: Tensor,
    key_BGSK: Tensor,
    value_BGSK: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T * scaling + mask) v, in the open: the reference, and the only one that returns its weights.

    Args:
        module: Its `num_key_value_groups` query heads share one key/value head; `training` switches dropout.
        attention_mask: Additive, [B, 1 or H, T, S]: 0 where a key is seen, the dtype's smallest number where not.
        scaling: Of the scores.
        dropout: Of the weights.

    Returns:
        The result [B, T, H, K], and the weights [B, H, T, S].
    """
    key_BHSK = key_BGSK.repeat_interleave(module.num_key_value_groups, dim=1)
    value_BHSK = value_BGSK.repeat_interleave(module.num_key_value_groups, dim=1)
    scores_BHTS = query_BHTK @ key_BHSK.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores_BHTS = scores_BHTS + attention_mask
    weights_BHTS = scores_BHTS.float().softmax(-1).to(query_BHTK.dtype)
    weights_BHTS = nn.functional.dropout(weights_BHTS, dropout, module.training)
    return (weights_BHTS @ value_BHSK).transpose(1, 2).contiguous(), weights_BHTS


class SelfAttention(nn.Module):
    """What every causal self-attention has in common: the cache, and the function that computes it.

    Which function that is (eager, sdpa, flash, flex, or a server's own) is handed in at each call, so that it can be
    changed at run time. Such functions read `layer_idx`, `num_key_value_groups`, `scaling`, `is_causal`, `config`.

    Args:
        layer_idx: Which layer of the cache is this one's.
        head_dim: K.
        num_key_value_groups: How many query heads share one key/value head.
        dropout: Of the attention weights, while training.
        sliding_window: How many keys a query sees, itself included; None means all.
        alibi: The slopes by which a head sees distant keys less; None for none.
    """

    is_causal = True
    config: Any = None  # never read here; the decoder sets it, because transformers' flash function asks for it

    def __init__(
        self,
        *,
        layer_idx: int,
        head_dim: int,
        num_key_value_groups: int,
        dropout: float,
        sliding_window: int | None,
        alibi: nn.Module | None,
    ) -> None:
        super().__init__()
        self.layer_idx, self.head_dim, self.dropout = layer_idx, head_dim, dropout
        self.num_key_value_groups, self.sliding_window = num_key_value_groups, sliding_window
        self.scaling = head_dim**-0.5
        self.alibi = alibi

    def attend(
        self,
        query_BHTK: Tensor,
        key_BGTK: Tensor,
        value_BGTK: Tensor,
        *,
        attention_mask: Any,
        cache: Cache | None,
        attention_function: AttentionFunction,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Add keys and values to the cache, and attend to all of them.

        Returns:
            [B, T, H * K], and the weights [B, H, T, S] where the function gives them.
        """
        key_BGSK, value_BGSK = key_BGTK, value_BGTK
        if cache is not None:
            key_BGSK, value_BGSK = cache.update(key_BGTK, value_BGTK, self.layer_idx)
        if self.alibi is not None:
            kwargs["slopes"] = self.alibi(torch.ones(1, device=query_BHTK.device))
        result_BTHK, weights = attention_function(
            self,
            query_BHTK,
            key_BGSK,
            value_BGSK,
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        batch, _, length, _ = query_BHTK.shape
        return result_BTHK.reshape(batch, length, -1), weights  # vLLM's function gives rows of tokens, [T, H * K]


class Attention(SelfAttention):
    """Causal self-attention without biases: o(softmax(rope(q(x)) rope(k(x))^T / sqrt(K)) v(x)).

    Args:
        hidden_size: D.
        layer_idx: Which layer of the cache is this one's.
        num_heads: H.
        num_key_value_heads: G; divides H.
        head_dim: K.
        dropout: Of the attention weights, while training.
        sliding_window: How many keys a query sees, itself included; None means all.
        q_norm, k_norm: Applied to each head's query and key [B, T, heads, K] before they are rotated.
        alibi: Slopes of the H heads.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        layer_idx: int,
        num_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        alibi: nn.Module | None = None,
    ) -> None:
        super().__init__(
            layer_idx=layer_idx,
            head_dim=head_dim,
            num_key_value_groups=num_heads // num_key_value_heads,
            dropout=dropout,
            sliding_window=sliding_window,
            alibi=alibi,
        )
        self.q_proj = nn.Linear(hidden_size, num_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, num_key_value_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, num_key_value_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(num_heads * head_dim, hidden_size, bias=False)
        self.q_norm, self.k_norm = q_norm, k_norm

    def forward(
        self,
        hidden_states: Tensor,
        *,
        attention_mask: Any,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        cache: Cache | None = None,
        attention_function: AttentionFunction = eager_attention,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            hidden_states: [B, T, D].
            attention_mask: Whatever the attention function takes: a tensor, a block mask, None.
            position_embeddings: Cosines and sines, [B, T, K] each; None rotates nothing.
            cache: Keys and values of earlier calls, to which this call's are added.
            attention_function: One of transformers' attention interface.
            **kwargs: Handed on to it.

        Returns:
            [B, T, D], and the weights [B, H, T, S] where the function gives them.
        """
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)  # by head_dim: a tensor-parallel rank has fewer heads
        query_BTHK, key_BTGK = self.q_proj(hidden_states).view(heads), self.k_proj(hidden_states).view(heads)
        if self.q_norm is not None and self.k_norm is not None:
            query_BTHK, key_BTGK = self.q_norm(query_BTHK), self.k_norm(key_BTGK)
        query_BHTK, key_BGTK = query_BTHK.transpose(1, 2), key_BTGK.transpose(1, 2)
        value_BGTK = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        if position_embeddings is not None:
            query_BHTK, key_BGTK = rotate(query_BHTK, *position_embeddings), rotate(key_BGTK, *position_embeddings)
        attended, weights = self.attend(
            query_BHTK,
            key_BGTK,
            value_BGTK,
            attention_mask=attention_mask,
            cache=cache,
            attention_function=attention_function,
            **kwargs,
        )
        return self.o_proj(attended), weights
