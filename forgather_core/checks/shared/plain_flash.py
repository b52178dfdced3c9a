"""Flash attention in plain torch, for the CPU and any dtype: the two functions of flash-attn, and a caller of them.

The functions follow flash-attn's documentation. A model that calls them has passed the same arguments as on a GPU.

Shapes: B batch, T query length, S key length, H query heads, G key/value heads, K head dimension; N real tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

FLASH = "flash_attention_2"
_NO_WINDOW = (-1, -1)


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = _NO_WINDOW,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """Compute attention of q [B, T, H, K] to k and v [B, S, G, K], without dropout.

    Query i stands at key i + S - T: the last query at the last key. There are the causal mask, the window
    [i + S - T - left, i + S - T + right], and the bias -slope * |i + S - T - j|. A query without keys has the result 0.

    Raises:
        ValueError: An argument that flash-attn refuses, or dropout.
    """
    (length, heads), (key_length, kv_heads) = q.shape[1:3], k.shape[1:3]
    _require(dropout_p == 0, f"dropout in evaluation, or in a model without dropout: dropout_p={dropout_p}")
    _require(heads % kv_heads == 0, f"{heads} query heads are not a multiple of {kv_heads} key/value heads")
    at = torch.arange(length)[:, None] + key_length - length
    j = torch.arange(key_length)
    left, right = window_size
    visible = torch.ones(length, key_length, dtype=torch.bool)
    visible &= (j >= at - left) | (left < 0)
    visible &= (j <= at + right) | (right < 0)
    if causal:
        visible &= j <= at
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    key, value = (x.repeat_interleave(heads // kv_heads, dim=2) for x in (k, v))
    scores = torch.einsum("bthk,bshk->bhts", q, key) * scale
    if softcap:
        scores = softcap * (scores / softcap).tanh()
    if alibi_slopes is not None:
        _require(alibi_slopes.shape == (heads,), f"alibi_slopes has the shape {list(alibi_slopes.shape)}")
        _require(alibi_slopes.dtype == torch.float32, f"alibi_slopes is {alibi_slopes.dtype}, not float32")
        scores = scores - alibi_slopes[:, None, None] * (at - j).abs()
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num(0.0)
    return torch.einsum("bhts,bshk->bthk", weights, value).contiguous()  # as the kernels return it


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    **more: Any,
) -> Tensor:
    """Compute the same for concatenated sequences: q [N, H, K], k and v [N, G, K].

    Args:
        q, k, v: The sequences.
        cu_seqlens_q, cu_seqlens_k: Their offsets, int32: from 0 to the number of tokens, one more than sequences.
        max_seqlen_q, max_seqlen_k: The length of the longest, or more.
        **more: Further arguments of `flash_attn_func`.

    Raises:
        ValueError: An argument that flash-attn refuses, or with which it reads or writes outside of the sequences.
    """
    for name, ends, longest, x in (("q", cu_seqlens_q, max_seqlen_q, q), ("k", cu_seqlens_k, max_seqlen_k, k)):
        _require(ends.dtype == torch.int32, f"cu_seqlens_{name} is {ends.dtype}, not int32")
        lengths = ends.diff()
        spans_all = int(ends[0]) == 0 and int(ends[-1]) == len(x) and bool((lengths >= 0).all())
        _require(spans_all, f"cu_seqlens_{name} does not ascend from 0 to {len(x)}: {ends.tolist()}")
        _require(isinstance(longest, int), f"max_seqlen_{name} is a {type(longest).__name__}, not an int")
        _require(longest >= int(lengths.max()), f"max_seqlen_{name}={longest}, but a sequence has {int(lengths.max())}")
    lengths_q, lengths_k = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    sequences = zip(torch.split(q, lengths_q), torch.split(k, lengths_k), torch.split(v, lengths_k), strict=True)
    return torch.cat([flash_attn_func(x[None], y[None], z[None], **more)[0] for x, y, z in sequences])


def flash_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute flash attention with the arguments of transformers' attention interface.

    Documents in `position_ids` are not separated: transformers does that for batches of one row only.

    Args:
        module: The attention layer; `is_causal` is its default.
        query, key, value: [B, H, T, K], [B, G, S, K] and [B, G, S, K].
        attention_mask: [B, S] or fewer keys, 0 on padding; or None.
        scaling: Factor of the scores; None means K^-0.5.
        dropout: Must be 0.
        sliding_window: Number of visible keys per query, its own included; None means all.
        softcap: The limit c of c * tanh(score / c); None means none.
        is_causal: Whether later keys are hidden.
        cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k: The concatenated documents of packed rows.
        **_: Arguments of other implementations.

    Returns:
        The result [B, T, H, K], 0 on padding, and None for the weights.

    Raises:
        ValueError: flash-attn refuses the arguments, or the mask has four dimensions.
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    more: dict[str, Any] = {
        "dropout_p": dropout,
        "softmax_scale": scaling,
        "softcap": softcap or 0.0,
        "causal": module.is_causal if is_causal is None else is_causal,
        "window_size": _NO_WINDOW if sliding_window is None else (sliding_window - 1, sliding_window - 1),
    }
    if cu_seq_lens_q is not None and attention_mask is None:
        q, k, v = (x.flatten(0, 1) for x in (query, key, value))
        lengths: Any = (cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
        return flash_attn_varlen_func(q, k, v, *lengths, **more).view(*query.shape[:3], -1), None
    if attention_mask is None:
        return flash_attn_func(query, key, value, **more), None
    _require(attention_mask.dim() == 2, f"the mask has {attention_mask.dim()} dimensions")
    key, value = (x[:, : attention_mask.shape[1]] for x in (key, value))  # a static cache has unfilled slots
    real = attention_mask.bool()
    rows = []
    for row, real_keys in enumerate(real):
        real_queries = real_keys[-query.shape[1] :]
        alone = flash_attn_func(
            query[row, real_queries][None], key[row, real_keys][None], value[row, real_keys][None], **more
        )
        rows.append(
            query.new_zeros(*query.shape[1:3], value.shape[-1]).masked_scatter(real_queries[:, None, None], alone)
        )
    return torch.stack(rows), None


@contextmanager
def plain_flash(model: Any) -> Iterator[Any]:
    """Let a model compute flash attention with these functions, and provide it.

    Args:
        model: The model; afterwards it must not be called again.
    """
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    original = ALL_ATTENTION_FUNCTIONS[FLASH]
    replaced = [(module, name) for module in _own_modules(model) for name in _FUNCTIONS if hasattr(module, name)]
    originals = [getattr(module, name) for module, name in replaced]
    AttentionInterface.register(FLASH, flash_attention)
    try:
        for module, name in replaced:
            setattr(module, name, _FUNCTIONS[name])
        model.config._attn_implementation = FLASH  # set_attn_implementation requires the package
        yield model
    finally:
        AttentionInterface.register(FLASH, original)
        for (module, name), function in zip(replaced, originals, strict=True):
            setattr(module, name, function)


_FUNCTIONS = {"flash_attn_func": flash_attn_func, "flash_attn_varlen_func": flash_attn_varlen_func}


def _own_modules(model: Any) -> list[Any]:
    """Return the Python modules of the model's directory, which may have imported flash-attn's functions."""
    package = type(model).__module__.rpartition(".")[0] + "."
    return [module for name, module in [*sys.modules.items()] if name.startswith(package)]


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(f"flash attention: {problem}")
