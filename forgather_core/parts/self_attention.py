"""Base of causal self-attention (arXiv:1706.03762, sec. 3.2).

Shapes: B batch, T query length, S key length, H query heads, G key/value heads, K head dimension, D hidden size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from forgather_core.parts.arguments import positive, probability
from forgather_core.parts.caches import fill_cache
from forgather_core.parts.requirements import CAUSAL, Needs, sliding

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
    """Compute softmax(q k^T * scaling + mask) v in plain torch; the only implementation that returns the weights.

    Args:
        module: Provides `num_key_value_groups`, the query heads per key/value head, and `training`.
        query_BHTK: Queries.
        key_BGSK, value_BGSK: Keys and values.
        attention_mask: Additive, [B, 1 or H, T, S]: 0 for a visible key, the dtype's minimum for a hidden one.
        scaling: Factor of the scores.
        dropout: Dropout probability of the weights in training.

    Returns:
        The result [B, T, H, K], and the weights [B, H, T, S].
    """
    key_BHSK = key_BGSK.repeat_interleave(module.num_key_value_groups, dim=1)
    value_BHSK = value_BGSK.repeat_interleave(module.num_key_value_groups, dim=1)
    scores_BHTS = query_BHTK @ key_BHSK.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores_BHTS = scores_BHTS + attention_mask
    # float32 or wider: a float64 mask cast to float32 would be -inf, and a row without visible keys NaN.
    scores_BHTS = scores_BHTS.to(torch.promote_types(scores_BHTS.dtype, torch.float32))
    weights_BHTS = scores_BHTS.softmax(-1).to(query_BHTK.dtype)
    weights_BHTS = nn.functional.dropout(weights_BHTS, dropout, module.training)
    return (weights_BHTS @ value_BHSK).transpose(1, 2).contiguous(), weights_BHTS


class SelfAttention(nn.Module):
    """Base of causal self-attention: updates the cache and calls the attention function.

    The function (eager, sdpa, flash, flex, or a server's own) is looked up at each call, so that it can be changed at
    run time. Attention functions read `layer_idx`, `num_key_value_groups`, `scaling`, `is_causal`, `config`.

    Args:
        layer_idx: Index of this layer in the cache.
        head_dim: K.
        num_key_value_groups: Number of query heads per key/value head.
        dropout: Dropout probability of the attention weights in training.
        sliding_window: Number of visible keys per query, its own included; None means all.
        alibi: The slopes of the heads; None for no ALiBi.
        num_heads: H, compared with the number of slopes; None skips the comparison.
        rope: Name of the rotary embedding that the decoder provides; None for no rotation.

    Raises:
        ValueError: A size is not above 0, `layer_idx` is negative, the dropout is not in [0, 1), or the number of
            slopes is not H.
    """

    is_causal = True
    config: Any = None  # set by the decoder; names the attention implementation, and flash attention reads it

    def __init__(
        self,
        *,
        layer_idx: int,
        head_dim: int,
        num_key_value_groups: int,
        dropout: float,
        sliding_window: int | None,
        alibi: nn.Module | None,
        num_heads: int | None = None,
        rope: str | None = "default",
    ) -> None:
        super().__init__()
        positive(head_dim=head_dim, num_key_value_groups=num_key_value_groups)
        probability(dropout=dropout)
        if layer_idx < 0:
            raise ValueError(f"layer_idx must be at least 0, got {layer_idx}")
        if sliding_window is not None:
            positive(sliding_window=sliding_window)
        slopes = getattr(alibi, "out_features", num_heads)
        if num_heads is not None and slopes != num_heads:
            raise ValueError(f"alibi must have one slope for each head, got {slopes} for num_heads={num_heads}")
        self.layer_idx, self.head_dim, self.attention_dropout = layer_idx, head_dim, dropout
        self.num_key_value_groups, self.sliding_window = num_key_value_groups, sliding_window
        self.scaling = head_dim**-0.5
        self.alibi = alibi
        self.rope = rope

    def needs(self) -> Needs:
        """Return the needs of attention: a mask, a cache of its kind, and RoPE or ALiBi."""
        mask = CAUSAL if self.sliding_window is None else sliding(self.sliding_window)
        bias = None if self.alibi is None else type(self.alibi)
        return Needs(mask=mask, rope=self.rope, cache=mask.layer_type, bias=bias)

    def attention_function(self) -> AttentionFunction:
        """Return the function of the configured attention implementation, with ALiBi biases if the layer has slopes."""
        implementation = self.config._attn_implementation if self.config is not None else "eager"
        function: AttentionFunction = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
        alibi: Any = self.alibi
        return alibi.attention_function(function, implementation) if alibi is not None else function

    def attend(
        self,
        query_BHTK: Tensor,
        key_BGTK: Tensor,
        value_BGTK: Tensor,
        *,
        attention_mask: Any,
        cache: Cache | None,
        attention_function: AttentionFunction | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Add keys and values to the cache, and compute attention over all of them.

        Args:
            query_BHTK, key_BGTK, value_BGTK: Queries, keys and values of this call's tokens.
            attention_mask: A mask in the form of the attention function: a tensor, a block mask, or None.
            cache: Keys and values of earlier calls; None for no cache.
            attention_function: A function of transformers' attention interface to use instead of the configured one;
                None and `eager_attention`, the default of earlier releases, mean the configured one.
            **kwargs: Further arguments of the attention function.

        Returns:
            The result [B, T, H * K], and the weights [B, H, T, S] or None if the function does not return them.
        """
        key_BGSK, value_BGSK = fill_cache(cache, key_BGTK, value_BGTK, self.layer_idx, kwargs)
        if self.alibi is not None:
            kwargs["slopes"] = self.alibi(torch.ones(1, device=query_BHTK.device))
        if attention_function is None or attention_function is eager_attention:
            attention_function = self.attention_function()
        result_BTHK, weights = attention_function(
            self,
            query_BHTK,
            key_BGSK,
            value_BGSK,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        batch, _, length, _ = query_BHTK.shape
        if torch.compiler.is_exporting():  # decompositions of attention may use another memory layout
            result_BTHK = result_BTHK.clone(memory_format=torch.contiguous_format)
        return result_BTHK.reshape(batch, length, -1), weights  # vLLM's function returns [T, H * K]
