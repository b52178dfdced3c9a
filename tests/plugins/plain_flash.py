"""flash-attn's two functions in plain torch, following its documentation, for the CPU and float32.

Shapes: B batch, T query length, S key length, H query heads, G key/value heads, K head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """Compute attention of q [B, T, H, K] to k and v [B, S, G, K].

    Query i stands at key i + S - T: the last query at the last key. There are the causal mask, the window
    [i + S - T - left, i + S - T + right], and the bias -slope * |i + S - T - j|. What sees nothing is zero.
    """
    assert dropout_p == 0
    (length, heads), key_length = q.shape[1:3], k.shape[1]
    assert heads % k.shape[2] == 0
    at = torch.arange(length)[:, None] + key_length - length
    j = torch.arange(key_length)
    left, right = window_size
    seen = torch.ones(length, key_length, dtype=torch.bool)
    seen &= (j >= at - left) | (left < 0)
    seen &= (j <= at + right) | (right < 0)
    if causal:
        seen &= j <= at
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    key, value = (x.repeat_interleave(heads // x.shape[2], dim=2) for x in (k, v))
    scores = torch.einsum("bthk,bshk->bhts", q, key) * scale
    if alibi_slopes is not None:
        assert alibi_slopes.shape == (heads,)
        assert alibi_slopes.dtype == torch.float32
        scores = scores - alibi_slopes[:, None, None] * (at - j).abs()
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0.0)
    return torch.einsum("bhts,bshk->bthk", weights, value)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    **more: object,
) -> Tensor:
    """Compute the same for concatenated sequences: q [tokens, H, K], k and v [tokens, G, K]."""
    for ends, longest, x in ((cu_seqlens_q, max_seqlen_q, q), (cu_seqlens_k, max_seqlen_k, k)):
        assert ends.dtype == torch.int32
        assert ends[0] == 0
        assert ends[-1] == len(x)
        assert type(longest) is int
        assert longest == ends.diff().max()
    lengths_q, lengths_k = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    sequences = zip(q.split(lengths_q), k.split(lengths_k), v.split(lengths_k), strict=True)
    return torch.cat([flash_attn_func(*(x[None] for x in one), **more)[0] for one in sequences])
