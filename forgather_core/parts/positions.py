"""Where tokens stand, counted over the real ones: padding has no place.

Shapes: B batch, T query length, S key length (cached keys included).
"""

from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from transformers.cache_utils import Cache


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
        key: [B or 1, S], float32.
    """

    query: Tensor
    key: Tensor

    def distance(self) -> Tensor:
        """Key minus query, [B or 1, 1, T, S]: 0 for a token itself, negative for what is behind it."""
        return self.key[:, None, None, :] - self.query[:, None, :, None]


def token_positions(
    inputs_embeds: Tensor,
    attention_mask: Any,
    *,
    cache: Cache | None,
    past_length: int | Tensor,
    layer_idx: int,
) -> TokenPositions:
    """The positions of this call's queries and of the keys that a layer will see, cached ones included.

    Args:
        inputs_embeds: [B, T, D].
        attention_mask: [B, up to now], 0 on padding; anything else (None, a ready mask) tells nothing of padding, and
            positions are then indices.
        cache: The cache before this call; a sliding one has forgotten its oldest keys.
        past_length: How many tokens it has seen.
        layer_idx: The layer, or one with the same kind of cache.
    """
    length, device = inputs_embeds.shape[1], inputs_embeds.device
    key_length, key_offset = cache.get_mask_sizes(length, layer_idx) if cache is not None else (length, 0)
    query = torch.arange(length, device=device) + past_length
    key = torch.arange(key_length, device=device) + key_offset
    if not _may_be_padded(attention_mask):
        return TokenPositions(query[None].float(), key[None].float())  # one row serves the whole batch
    counted = attention_mask.to(device).long().cumsum(-1)
    last = counted.shape[1] - 1  # a static cache has places beyond the mask, which nobody sees
    return TokenPositions(counted[:, query.clamp(max=last)].float(), counted[:, key.clamp(max=last)].float())


def _may_be_padded(attention_mask: Any) -> TypeGuard[Tensor]:
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return False
    return torch.compiler.is_compiling() or attention_mask.is_meta or not bool(attention_mask.all())
