"""Attention with one head as wide as the model (arXiv:2108.12409; transformer-circuits.pub/2021/framework).

Shapes: B batch, T query length, S key length, D hidden size and head dimension.
"""

from typing import Any

from torch import Tensor, nn
from transformers import Cache

from forgather_core.parts.arguments import positive
from forgather_core.parts.caches import resolve_cache
from forgather_core.parts.self_attention import AttentionFunction, SelfAttention


class SingleHeadAttention(SelfAttention):
    """Single-head attention: softmax(x W_qk x^T / sqrt(D) + slope * (k - q)) x W_ov, with two D x D matrices.

    Since head and model have the same width, query times key and value times output are one matrix each:
    W_qk and W_ov of "A Mathematical Framework for Transformer Circuits". It is ordinary attention with query = x W_qk,
    key = x and value = x W_ov, so masks, caches and every implementation work; the cached key is x. No biases.

    Args:
        hidden_size: D.
        layer_idx: Index of this layer in the cache.
        dropout: Dropout probability of the attention weights in training.
        sliding_window: Number of visible keys per query, its own included; None means all.
        alibi: The slope of the head; None for no ALiBi.

    Raises:
        ValueError: A size is not above 0, the dropout is not in [0, 1), or there is more than one slope.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        layer_idx: int,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        alibi: nn.Module | None = None,
    ) -> None:
        positive(hidden_size=hidden_size)
        super().__init__(
            layer_idx=layer_idx,
            head_dim=hidden_size,
            num_heads=1,
            num_key_value_groups=1,
            dropout=dropout,
            sliding_window=sliding_window,
            alibi=alibi,
            rope=None,
        )
        self.qk_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.ov_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: None = None,
        attention_mask: Any = None,
        cache: Cache | None = None,
        *,
        past_key_values: Cache | None = None,
        attention_function: AttentionFunction | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute [B, T, D] -> [B, T, D] and the weights [B, 1, T, S] or None; arguments as for `Attention`."""
        query, key, value = self.qk_proj(hidden_states), hidden_states, self.ov_proj(hidden_states)
        return self.attend(
            *(x.unsqueeze(1) for x in (query, key, value)),
            attention_mask=attention_mask,
            cache=resolve_cache(past_key_values, cache),
            attention_function=attention_function,
            **kwargs,
        )
