"""ALiBi through flash-attn's own `alibi_slopes`: fixed slopes only, since it gives them no gradient.

Shapes: B batch, T query length, S key length, H query heads, G key/value heads, K head dimension; N real tokens.
"""

from typing import Any

import torch
from torch import Tensor

try:
    from flash_attn import flash_attn_func, flash_attn_varlen_func
except ImportError:  # it needs a GPU; transformers says so to whoever asks for it
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
    """Causal attention with biases slope_h * (k - q).

    flash-attn subtracts alibi_slopes[h] * |q - k|, with queries aligned to the last keys: the same thing. Documents and
    padding go in as sequences of their own, within which it counts positions from their begin.

    Args:
        module: Not used; the place in transformers' interface.
        query_BHTK, key_BGSK, value_BGSK: float16 or bfloat16.
        attention_mask: [B, S], 0 on padding, or None.
        slopes: [H], float32.
        scaling: Of the scores.
        dropout: Of the weights.
        sliding_window: How many keys a query sees, itself included.
        cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k: Documents laid end to end, where rows are packed.

    Returns:
        [B, T, H, K] and no weights.

    Raises:
        ValueError: Slopes are to be trained, or the mask has four dimensions.
        ImportError: flash-attn is not installed.
    """
    if slopes.requires_grad:
        raise ValueError(
            "flash attention gives ALiBi's slopes no gradient: choose attn_implementation='sdpa' or 'flex_attention', "
            "or fixed slopes with alibi_trainable=False"
        )
    if attention_mask is not None and attention_mask.dim() == 4:
        raise ValueError("flash attention takes no mask of four dimensions: choose attn_implementation='sdpa'")
    if flash_attn_func is None:
        raise ImportError("ALiBi with flash attention needs the package flash-attn: choose 'sdpa' or 'flex_attention'")
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
    key, value = (x[:, : attention_mask.shape[1]] for x in (key, value))  # a static cache has places not filled yet
    seen = attention_mask[:, -key.shape[1] :].bool()
    asking = seen[:, -query.shape[1] :]
    starts_q, longest_q = _starts(asking)
    starts_k, longest_k = _starts(seen)
    result_NHK = flash_attn_varlen_func(
        query[asking], key[seen], value[seen], starts_q, starts_k, longest_q, longest_k, **more
    )
    result_BTHK = query.new_zeros(query.shape)
    result_BTHK[asking] = result_NHK
    return result_BTHK, None


def _starts(real: Tensor) -> tuple[Tensor, int]:
    """Where the rows of a mask begin when their real tokens are laid end to end, [B + 1], and the longest of them."""
    lengths = real.sum(-1, dtype=torch.int32)
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)), int(lengths.max())
