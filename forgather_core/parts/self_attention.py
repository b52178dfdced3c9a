"""What every causal self-attention has in common (arXiv:1706.03762, sec. 3.2).

Shapes: B batch, T query length, S key length, H query heads, G key/value heads, K head dimension, D hidden size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from forgather_core.parts.arguments import positive, probability

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
    # At least float32; a float64 mask in float32 would be -inf, and a row that sees nothing NaN.
    scores_BHTS = scores_BHTS.to(torch.promote_types(scores_BHTS.dtype, torch.float32))
    weights_BHTS = scores_BHTS.softmax(-1).to(query_BHTK.dtype)
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
        num_heads: H, with which the slopes are compared; None compares nothing.

    Raises:
        ValueError: A size is not above 0, the dropout is not in [0, 1), or the slopes are not H.
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
        num_heads: int | None = None,
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
