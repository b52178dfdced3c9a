"""Attention masks: causal, sliding window, padding, and documents packed into one row.

Shapes: B batch, T query length, S key length (cached keys included), D hidden size.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    create_causal_mask,
    create_sliding_window_causal_mask,
)

from forgather_core.parts.caches import CACHE, CacheAtCall, is_paged
from forgather_core.parts.documents import Documents
from forgather_core.parts.requirements import MaskKind

MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}


def makes_own_masks(config: Any, cache: Cache | None) -> bool:
    """Return whether a server's attention implementation makes its masks and separates documents itself."""
    return config._attn_implementation not in ALL_MASK_ATTENTION_FUNCTIONS or is_paged(cache)


def decoder_mask(
    config: Any,
    inputs_embeds: Tensor,
    *,
    kind: MaskKind,
    attention_mask: Any,
    cache: Cache | None,
    layer_idx: int,
    documents: Documents | None,
) -> tuple[Any, dict[str, Any]]:
    """Return the mask for the configured attention implementation, and further arguments of its function.

    Args:
        config: The model's configuration; its attention implementation determines the form of the mask.
        inputs_embeds: [B, T, D].
        kind: Which keys of its document a query attends to.
        attention_mask: [B, S], 0 on padding; or a four-dimensional mask [B, 1, T, S], of floats to add or of bool,
            False where a key is hidden; or None.
        cache: The cache before this call.
        layer_idx: Index in the cache of a layer of this kind.
        documents: The documents of the rows; None for rows of one document, and for complete masks.

    Returns:
        The mask, and keyword arguments for the attention function.

    Raises:
        ValueError: Flash attention does not support this combination of packing and a cache.
    """
    overlay, more = None, {}
    if documents is not None:
        if "flash" in config._attn_implementation:
            if documents.packed():
                attention_mask, more = None, documents.flash_arguments()
        elif documents.may_be_packed():
            overlay = documents.same_document
    if config._attn_implementation == "eager" and isinstance(attention_mask, Tensor) and attention_mask.dim() == 4:
        attention_mask = _additive(attention_mask, inputs_embeds.dtype)
    if config._attn_implementation == "flex_attention" and cache is not None and not is_paged(cache):
        cache = CacheAtCall(cache, layer_idx)  # type: ignore[assignment]
    # No position_ids: transformers' packing detection covers less than the overlay.
    mask = MASKS[kind.layer_type](
        config=config,
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        **{CACHE: cache},
        and_mask_function=overlay,
    )
    return mask, more


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask of floats for eager attention, which adds it to the scores: a bool would add 1 to visible keys."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
