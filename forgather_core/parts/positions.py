"""Where tokens stand, counted over the real ones: padding has no place.

Shapes: B batch, T query length, S key length (cached keys included).
"""

from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask
from transformers.cache_utils import Cache

from forgather_core.parts.caches import is_paged


def positions(inputs_embeds: Tensor, attention_mask: Any, past_length: int | Tensor) -> Tensor:
    """The position of each token where the caller gave none: how many real tokens stand before it.

    Args:
        inputs_embeds: [B, T, D].
        attention_mask: [B, up to now], 0 on padding; anything else tells nothing of padding.
        past_length: How many tokens the cache holds.

    Returns:
        [B, T], or [1, T] where all rows have the same.
    """
    steps = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past_length
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return steps.unsqueeze(0)
    counted = attention_mask.to(steps.device).long().cumsum(-1)
    return (counted[:, steps.clamp(max=counted.shape[1] - 1)] - 1).clamp(min=0)


class TokenPositions(NamedTuple):
    """Where queries and keys stand, counted in real tokens: padding between two tokens does not move them apart.

    Args:
        query: [B or 1, T], float32.
        key: [B or 1, S], float32; or [B or 1, T, S] where each query counts keys in its own way.
    """

    query: Tensor
    key: Tensor

    def distance(self) -> Tensor:
        """Key minus query, [B or 1, 1, T, S]: 0 for a token itself, negative for what is behind it."""
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
    """The positions of this call's queries and of the keys that a layer will see, cached ones included.

    Args:
        inputs_embeds: [B, T, D].
        attention_mask: [B, up to now], 0 on padding; or a ready mask [B or 1, heads, T, S], of bool or added to the
            scores, or a block mask; or None, and positions are then indices.
        cache: The cache before this call; a sliding one has forgotten its oldest keys.
        past_length: How many tokens it has seen.
        layer_idx: The layer, or one with the same kind of cache.
        position_ids: [B or 1, T]. A ready mask may place tokens in any order, so they are used with one only; without
            them, every key that a query of this call sees counts as one token.
    """
    length, device = inputs_embeds.shape[1], inputs_embeds.device
    if is_paged(cache):
        return _paged_positions(attention_mask)
    key_length, key_offset = cache.get_mask_sizes(length, layer_idx) if cache is not None else (length, 0)
    query = torch.arange(length, device=device) + past_length
    key = torch.arange(key_length, device=device) + key_offset
    if (visible := visible_keys(attention_mask, key_length)) is not None:
        return _ready_positions(visible, position_ids, query - key_offset)
    if not _may_be_padded(attention_mask):
        return TokenPositions(query[None].float(), key[None].float())  # one row serves the whole batch
    counted = attention_mask.to(device).long().cumsum(-1)
    last = counted.shape[1] - 1  # a static cache has places beyond the mask, which nobody sees
    return TokenPositions(counted[:, query.clamp(max=last)].float(), counted[:, key.clamp(max=last)].float())


def _paged_positions(attention_mask: Any) -> TokenPositions:
    """The positions of queries and keys in a paged cache, by their columns in its mask.

    The keys of a request stand side by side, and a query's own key is the last one that it sees.

    Raises:
        ValueError: There is no mask: flash attention knows the requests by their lengths.
    """
    if (visible := visible_keys(attention_mask, 0)) is None:
        raise ValueError(
            "ALiBi supports continuous batching with eager and sdpa attention only: "
            "choose attn_implementation='sdpa' and set auto_switch_to_flash=False"
        )
    column = torch.arange(visible.shape[-1], device=visible.device)
    own = torch.where(visible, column, 0).amax(dim=-1)
    return TokenPositions(own.float(), column[None].float())


HIDDEN = -1e4  # what is added to a score to hide a key is this, the smallest number of a dtype, or -inf


def visible_keys(attention_mask: Any, key_length: int) -> Tensor | None:
    """Which keys each query sees by a ready mask: [B or 1, T, S] of bool; None where the mask is not a ready one."""
    if isinstance(attention_mask, BlockMask):
        batch, heads, length, _ = attention_mask.shape
        device = str(attention_mask.kv_num_blocks.device)
        attention_mask = create_mask(attention_mask.mask_mod, batch, heads, length, key_length, device)
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 4:
        return None
    visible = attention_mask if attention_mask.dtype == torch.bool else attention_mask > HIDDEN
    return visible.any(dim=1) if visible.shape[1] > 1 else visible[:, 0]


def _ready_positions(visible: Tensor, position_ids: Tensor | None, column: Tensor) -> TokenPositions:
    """The positions under a ready mask, [B or 1, T, S] of bool, of queries whose own keys are at `column` [T].

    Positions of cached keys are not stored. A query sees those of its own sequence: counted back from the first token
    of this call that it sees, each is one token further away.
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
    behind = cached.flip(-1).cumsum(-1).flip(-1)  # cached keys that the query sees, from each key on
    key = first - behind
    key[:, :, column] = query[:, None, :].expand(-1, len(column), -1)
    return TokenPositions(query, key)


def _may_be_padded(attention_mask: Any) -> TypeGuard[Tensor]:
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return False
    return torch.compiler.is_compiling() or attention_mask.is_meta or not bool(attention_mask.all())
