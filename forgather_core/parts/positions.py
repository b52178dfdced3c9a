"""Positions of tokens, counted over real tokens: padding does not count.

Shapes: B batch, T query length, S key length (cached keys included).
"""

from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask
from transformers import Cache

from forgather_core.parts.caches import is_paged


def positions(inputs_embeds: Tensor, attention_mask: Any, past_length: int | Tensor) -> Tensor:
    """Return the default position ids: the number of real tokens before each token.

    Args:
        inputs_embeds: [B, T, D].
        attention_mask: [B, S], 0 on padding; any other mask means no padding.
        past_length: Number of cached tokens.

    Returns:
        [B, T], or [1, T] if all rows are equal.
    """
    steps = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past_length
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return steps.unsqueeze(0)
    counted = attention_mask.to(steps.device).long().cumsum(-1)
    return (counted[:, steps.clamp(max=counted.shape[1] - 1)] - 1).clamp(min=0)


class TokenPositions(NamedTuple):
    """Positions of queries and keys in real tokens: padding between two tokens does not increase their distance.

    Args:
        query: [B or 1, T], float32.
        key: [B or 1, S], float32; or [B or 1, T, S] if key positions differ by query.
    """

    query: Tensor
    key: Tensor

    def distance(self) -> Tensor:
        """Return key minus query, [B or 1, 1, T, S]: 0 for the token itself, negative for earlier tokens."""
        key = self.key[:, None, :] if self.key.dim() == 2 else self.key
        return (key - self.query[:, :, None])[:, None]


def token_positions(
    inputs_embeds: Tensor,
    attention_mask: Any,
    *,
    cache: Cache | None,
    past_length: int | Tensor,
    layer_idx: int,
    position_ids: Tensor | None = None,
) -> TokenPositions:
    """Return the positions of the queries of a call and of all keys of a layer, cached keys included.

    Args:
        inputs_embeds: [B, T, D].
        attention_mask: [B, S], 0 on padding; or a four-dimensional mask [B or 1, heads, T, S], bool or additive; or a
            block mask; or None, which makes positions equal to indices.
        cache: The cache before this call; a sliding cache lacks its oldest keys.
        past_length: Number of tokens added to the cache so far.
        layer_idx: The layer, or one with the same kind of cache.
        position_ids: [B or 1, T]; used with a four-dimensional mask only, which may order tokens arbitrarily. Without
            them, every key that is visible to a query of this call counts as one token.
    """
    length, device = inputs_embeds.shape[1], inputs_embeds.device
    if is_paged(cache):
        return _paged_positions(attention_mask)
    key_length, key_offset = cache.get_mask_sizes(length, layer_idx) if cache is not None else (length, 0)
    query = torch.arange(length, device=device) + past_length
    key = torch.arange(key_length, device=device) + key_offset
    if (visible := visible_keys(attention_mask, key_length)) is not None:
        return _positions_from_mask(visible, position_ids, query - key_offset)
    if not _may_be_padded(attention_mask):
        return TokenPositions(query[None].float(), key[None].float())  # one row for the full batch
    counted = attention_mask.to(device).long().cumsum(-1)
    last = counted.shape[1] - 1  # a static cache has slots beyond the mask, which are hidden
    return TokenPositions(counted[:, query.clamp(max=last)].float(), counted[:, key.clamp(max=last)].float())


def _paged_positions(attention_mask: Any) -> TokenPositions:
    """Return the positions of queries and keys in a paged cache: their columns in the mask.

    The keys of a request are adjacent, and the last visible key of a query is its own.

    Raises:
        ValueError: There is no mask, as with flash attention, which separates requests by their lengths.
    """
    if (visible := visible_keys(attention_mask, 0)) is None:
        raise ValueError(
            "ALiBi supports continuous batching with eager and sdpa attention only: "
            "choose attn_implementation='sdpa' and set auto_switch_to_flash=False"
        )
    column = torch.arange(visible.shape[-1], device=visible.device)
    own = torch.where(visible, column, 0).amax(dim=-1)
    return TokenPositions(own.float(), column[None].float())


HIDDEN = -1e4  # additive masks hide keys with this value or less: the dtype's minimum, or -inf


def visible_keys(attention_mask: Any, key_length: int) -> Tensor | None:
    """Return the visible keys of each query in a four-dimensional mask, [B or 1, T, S] of bool; None for others."""
    if isinstance(attention_mask, BlockMask):
        batch, heads, length, _ = attention_mask.shape
        device = str(attention_mask.kv_num_blocks.device)
        attention_mask = create_mask(attention_mask.mask_mod, batch, heads, length, key_length, device)
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 4:
        return None
    visible = attention_mask if attention_mask.dtype == torch.bool else attention_mask > HIDDEN
    return visible.any(dim=1) if visible.shape[1] > 1 else visible[:, 0]


def _positions_from_mask(visible: Tensor, position_ids: Tensor | None, column: Tensor) -> TokenPositions:
    """Return the positions under a mask `visible` [B or 1, T, S], for queries with their own keys at `column` [T].

    Positions of cached keys are not stored. The visible ones belong to the query's sequence: they count down from the
    first visible token of this call, one position per key.
    """
    if position_ids is None:
        counted = visible.any(dim=1).long().cumsum(-1)
        column = column.clamp(max=counted.shape[1] - 1)
        return TokenPositions(counted[:, column].float(), counted.float())
    rows = max(visible.shape[0], position_ids.shape[0])
    query = position_ids.expand(rows, -1).float()
    visible = visible.expand(rows, -1, -1)
    here = visible[:, :, column] | torch.eye(len(column), dtype=torch.bool, device=column.device)
    first = query[:, None, :].masked_fill(~here, torch.inf).amin(dim=-1, keepdim=True)
    index = torch.arange(visible.shape[-1], device=column.device)
    cached = visible & (index < column[:1])
    behind = cached.flip(-1).cumsum(-1).flip(-1)  # number of visible cached keys from each key on
    key = first - behind
    key[:, :, column] = query[:, None, :].expand(-1, len(column), -1)
    return TokenPositions(query, key)


def _may_be_padded(attention_mask: Any) -> TypeGuard[Tensor]:
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return False
    return torch.compiler.is_compiling() or attention_mask.is_meta or not bool(attention_mask.all())
