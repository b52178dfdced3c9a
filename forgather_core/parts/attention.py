"""Multi-head attention (arXiv:1706.03762, sec. 3.2.2), grouped-query included (arXiv:2305.13245).

Shapes: B batch, T query length, S key length, H query heads, G key/value heads, K head dimension, D hidden size.
"""

from typing import Any

from torch import Tensor, nn
from transformers import Cache

from forgather_core.parts.arguments import divisible, positive
from forgather_core.parts.caches import resolve_cache
from forgather_core.parts.rotation import rotate_all
from forgather_core.parts.self_attention import AttentionFunction, SelfAttention


class Attention(SelfAttention):
    """Causal self-attention without biases: o(softmax(rope(q(x)) rope(k(x))^T / sqrt(K)) v(x)).

    Args:
        hidden_size: D.
        layer_idx: Index of this layer in the cache.
        num_heads: H.
        num_key_value_heads: G; divides H.
        head_dim: K.
        dropout: Dropout probability of the attention weights in training.
        sliding_window: Number of visible keys per query, its own included; None means all.
        q_norm, k_norm: Norms of each head's query and key [B, T, heads, K], applied before RoPE.
        alibi: The slopes of the H heads; None for no ALiBi.
        rope: Name of the rotary embedding that the decoder provides; None for no rotation.

    Raises:
        ValueError: A size is not above 0, G does not divide H, the dropout is not in [0, 1), or the number of slopes is
            not H.
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
        rope: str | None = "default",
    ) -> None:
        positive(hidden_size=hidden_size)
        divisible("num_heads", num_heads, "num_key_value_heads", num_key_value_heads)
        super().__init__(
            layer_idx=layer_idx,
            head_dim=head_dim,
            num_heads=num_heads,
            num_key_value_groups=num_heads // num_key_value_heads,
            dropout=dropout,
            sliding_window=sliding_window,
            alibi=alibi,
            rope=rope,
        )
        self.q_proj = nn.Linear(hidden_size, num_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, num_key_value_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, num_key_value_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(num_heads * head_dim, hidden_size, bias=False)
        self.q_norm, self.k_norm = q_norm, k_norm

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Any = None,
        cache: Cache | None = None,
        *,
        past_key_values: Cache | None = None,
        attention_function: AttentionFunction | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention over the cached keys and those of this call.

        Args:
            hidden_states: [B, T, D].
            position_embeddings: Cosines and sines as `Rope` returns them, [B or 1, T, K]; None for no RoPE.
            attention_mask: A mask in the form of the attention function: a tensor, a block mask, or None.
            cache, past_key_values: The cache (two names of one argument); this call's keys and values are added to it.
            attention_function: A function of transformers' attention interface; None means the configured one.
            **kwargs: Further arguments of the attention function.

        Returns:
            The result [B, T, D], and the weights [B, H, T, S] or None if the function does not return them.
        """
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)  # by head_dim: a tensor-parallel rank has fewer heads
        query_BTHK = self.q_proj(hidden_states).view(heads)
        if self.q_norm is not None:
            query_BTHK = self.q_norm(query_BTHK)
        key_BTGK = self.k_proj(hidden_states).view(heads)
        if self.k_norm is not None:
            key_BTGK = self.k_norm(key_BTGK)
        query_BHTK, key_BGTK = query_BTHK.transpose(1, 2), key_BTGK.transpose(1, 2)
        value_BGTK = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        if position_embeddings is not None:
            query_BHTK, key_BGTK = rotate_all((query_BHTK, key_BGTK), *position_embeddings)
        attended, weights = self.attend(
            query_BHTK,
            key_BGTK,
            value_BGTK,
            attention_mask=attention_mask,
            cache=resolve_cache(past_key_values, cache),
            attention_function=attention_function,
            **kwargs,
        )
        return self.o_proj(attended), weights
