"""Few attention heads: grouped heads stay grouped."""

from __future__ import annotations

from typing import Any

from .sizes import Sizes

HIDDEN = 64
_HEAD, _RATIO = 32, 2
_KEPT_HEAD, _KEPT_RATIO = 1024, 8  # far above the values of usual models; they limit the memory of a copy


def shrink_heads(sizes: Sizes, *, keep: bool) -> int | None:
    """Set the number and size of heads and the hidden size. Return the new hidden size, or None if there is none.

    Args:
        sizes: The configuration.
        keep: Keep the head size and the number of query heads per key/value head.
    """
    heads, hidden = sizes["num_attention_heads"], sizes["hidden_size"]
    width: int
    if not isinstance(hidden, int):
        return None
    if not isinstance(heads, int):
        # The configuration of xLSTM rounds hidden size x factor up to a multiple of 64; its layers do not.
        width = min(hidden, int(HIDDEN / min(sizes["qk_dim_factor"] or 1, 1)))
    else:
        kv_heads = min(sizes["num_key_value_heads"] or heads, heads)  # latent attention ignores a larger number
        few_kv_heads = min(kv_heads, 2)
        few_heads = few_kv_heads * min(heads // kv_heads, _KEPT_RATIO if keep else _RATIO)
        size = sizes["head_dim"] or hidden // heads
        for name in ("num_attention_heads", "decoder_attention_heads", "encoder_attention_heads"):
            sizes.set(name, few_heads)
        if sizes["num_key_value_heads"] is not None:
            sizes.set("num_key_value_heads", few_kv_heads)
        small = _head_size(sizes, size, few_heads, keep=keep)
        if sizes["rotary_dim"]:  # the rotated elements of a head
            sizes.set("rotary_dim", max(sizes["rotary_dim"] * small // size // 2 * 2, 2))
        if keep and sizes.set("head_dim", small):
            width = 8 * few_heads  # independent of the head size, which may be large
        else:
            width = few_heads * small + (small if heads * size != hidden else 0)  # an independent head size stays so
            if sizes["head_dim"] is not None:
                sizes.set("head_dim", small)
            if sizes["d_head"] is not None:  # of XLNet: the hidden size divided by the number of heads
                sizes.set("d_head", small)
    sizes.set("hidden_size", width)
    return width


def _head_size(sizes: Sizes, size: int, heads: int, *, keep: bool) -> int:
    if keep:
        return min(size, _KEPT_HEAD)
    rope: dict[str, Any] = sizes["rope_parameters"] or sizes["rope_scaling"] or {}
    if any(isinstance(value, list) for value in rope.values()):  # factors for each dimension fix the size
        return size
    return min(size, _HEAD, HIDDEN // heads)
