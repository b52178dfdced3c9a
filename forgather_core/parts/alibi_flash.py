"""ALiBi with flash-attn's `alibi_slopes`: fixed slopes only, since flash-attn computes no gradient for them.

Shapes: B batch, T query length, S key length, H query heads, G key/value heads, K head dimension; N real tokens.
"""

from typing import Any

import torch
from torch import Tensor

try:
    from flash_attn import flash_attn_func, flash_attn_varlen_func
except ImportError:  # requires a GPU; transformers reports that on use
    flash_attn_func = flash_attn_varlen_func = None


def flash_attention_with_alibi(
    module: Any,
    query_BHTK: Tensor,
    key_BGSK: Tensor,
    value_BGSK: Tensor,
    attention_mask: Tensor | None,
    *,
    slopes: Tensor,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention with biases slope_h * (k - q).

    flash-attn subtracts alibi_slopes[h] * |q - k|, with queries aligned to the last keys: the same bias. Documents and
    padding are passed as separate sequences, in which flash-attn counts positions from 0.

    Args:
        module: Not used; transformers' interface passes it.
        query_BHTK, key_BGSK, value_BGSK: float16 or bfloat16.
        attention_mask: [B, S], 0 on padding, or None.
        slopes: [H], float32.
        scaling: Factor of the scores.
        dropout: Dropout probability of the attention weights.
        sliding_window: Number of visible keys per query, its own included.
        cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k: The concatenated documents of packed rows.

    Returns:
        The result [B, T, H, K], and None for the weights.

    Raises:
        ValueError: The slopes are trainable, or the mask has four dimensions.
        ImportError: flash-attn is not installed.
    """
    if slopes.requires_grad:
        raise ValueError(
            "flash attention computes no gradient for ALiBi slopes: choose attn_implementation='sdpa' or "
            "'flex_attention', or fixed slopes with alibi_trainable=False"
        )
    if attention_mask is not None and attention_mask.dim() == 4:
        raise ValueError("flash attention does not support a 4-dimensional mask: choose attn_implementation='sdpa'")
    if flash_attn_func is None:
        raise ImportError(
            "ALiBi with flash attention requires the package flash-attn: install it, or choose 'sdpa'"
            " or 'flex_attention'"
        )
    query, key, value = (x.transpose(1, 2) for x in (query_BHTK, key_BGSK, value_BGSK))
    more: dict[str, Any] = {"dropout_p": dropout, "softmax_scale": scaling, "causal": True, "alibi_slopes": slopes}
    if sliding_window is not None:
        more["window_size"] = (sliding_window - 1, 0)
    if cu_seq_lens_q is not None:
        flat = [x.flatten(0, 1) for x in (query, key, value)]
        result = flash_attn_varlen_func(*flat, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k, **more)
        return result.view(query.shape), None
    if attention_mask is None:
        return flash_attn_func(query, key, value, **more), None
    key, value = (x[:, : attention_mask.shape[1]] for x in (key, value))  # a static cache has unfilled slots
    real_keys = attention_mask[:, -key.shape[1] :].bool()
    real_queries = real_keys[:, -query.shape[1] :]
    starts_q, longest_q = _starts(real_queries)
    starts_k, longest_k = _starts(real_keys)
    result_NHK = flash_attn_varlen_func(
        query[real_queries], key[real_keys], value[real_keys], starts_q, starts_k, longest_q, longest_k, **more
    )
    result_BTHK = query.new_zeros(query.shape)
    result_BTHK[real_queries] = result_NHK
    return result_BTHK, None


def _starts(real: Tensor) -> tuple[Tensor, int]:
    """Return the offsets [B + 1] of the rows in the concatenated real tokens, and the longest length."""
    lengths = real.sum(-1, dtype=torch.int32)
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)), int(lengths.max())
