"""Which keys a query sees: causal, sliding window, padding, and documents packed into one row.

transformers detects packing only without an attention mask and without a cache, and a cache is its default. Here it is
never lost: a document begins where position_ids break, and no query sees a key before the begin of its document.

Shapes: B batch, T query length, S key length (cached keys included), D hidden size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    create_causal_mask,
    create_sliding_window_causal_mask,
)

from forgather_core.parts.caches import CACHE, cached_length, is_paged


def decoder_mask(
    config: Any,
    inputs_embeds: Tensor,
    *,
    attention_mask: Any,
    cache: Cache | None,
    position_ids: Tensor | None,
    sliding_window: int | None,
) -> tuple[Any, dict[str, Any]]:
    """The mask for the attention implementation in use, and what else its function must be told.

    Args:
        config: The model's; its attention implementation decides the form of the mask.
        inputs_embeds: [B, T, D].
        attention_mask: [B, S], 0 on padding; or a mask [B, 1, T, S] made by the caller, used as it is; or None.
        cache: The cache before this call.
        position_ids: [B, T] as the caller gave them; None when the caller gave none, and nothing is packed.
        sliding_window: How many keys a query sees, itself included; None means all.

    Raises:
        ValueError: Packing in a form that flash attention cannot be told.
    """
    overlay, more = None, {}
    ready = attention_mask is not None and len(attention_mask.shape) == 4
    if config._attn_implementation not in ALL_MASK_ATTENTION_FUNCTIONS._global_mapping or is_paged(cache):
        ready = True  # a server's: it brings its mask or needs none, and knows its documents by itself
    if position_ids is not None and not ready:
        real = attention_mask.to(position_ids.device, torch.bool) if attention_mask is not None else None
        past_length = cached_length(cache)
        starts = document_starts(position_ids.expand(inputs_embeds.shape[0], -1), past_length, real)
        if "flash" in config._attn_implementation:
            if _packed(starts):
                attention_mask, more = None, flash_documents(starts, past_length, real)
        elif torch.compiler.is_compiling() or starts.is_meta or _packed(starts):  # values not to be had: may be packed
            overlay = _same_document(starts, past_length)
    create = create_causal_mask if sliding_window is None else create_sliding_window_causal_mask
    # position_ids are kept from it: what it would make of them is less than the overlay.
    mask = create(
        config=config,
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        **{CACHE: cache},
        and_mask_function=overlay,
    )
    return mask, more


def document_starts(position_ids: Tensor, past_length: int | Tensor, real: Tensor | None = None) -> Tensor:
    """The index, cached keys counted, at which the document of each query begins.

    A document goes on from one token to the next while its position grows by one; padding between them is skipped, and
    its positions may have been counted or not. After padding, a document begins only at the position with which the
    row begins: generate() continues from the position of the last token, even if that is padding (0, 1, 2, 0, 0 | 1).
    Up to the first break, queries go on with the last cached document, which began as many tokens ago as their
    position says.

    Args:
        position_ids: [B, T], given by the caller.
        past_length: How many keys the cache holds.
        real: [B, S] of bool, False on padding; None when there is none.

    Returns:
        [B, T], never decreasing along a row; 0 where there is nothing to hide.

    One case cannot be told from a padded prompt that `generate` continues: a call with a cache that begins one or two
    tokens into a packed document and right behind padding within that document. It sees the documents before it.
    """
    step = torch.arange(position_ids.shape[1], device=position_ids.device).expand_as(position_ids)
    is_real = real.gather(1, (step + past_length).clamp(max=real.shape[1] - 1)) if real is not None else None
    begun = _begun_in_cache(position_ids, past_length, real, is_real)
    if position_ids.shape[1] == 1:  # a token of generate(): nothing stands beside it that could break
        return begun
    breaks = _breaks(position_ids, step, past_length, is_real)
    return torch.where(breaks, step + past_length, begun).cummax(dim=-1).values


def _begun_in_cache(
    position_ids: Tensor, past_length: int | Tensor, real: Tensor | None, is_real: Tensor | None
) -> Tensor:
    """The index [B, 1] at which the document begins that the first queries go on with."""
    if real is None or is_real is None:
        return (past_length - position_ids[:, :1]).clamp(min=0)
    count = real.long().cumsum(dim=-1)  # real tokens up to each key, itself included
    first = is_real.int().argmax(dim=-1, keepdim=True)
    cached = count.gather(1, (first + past_length).clamp(max=real.shape[1] - 1)) - is_real.gather(1, first).long()
    position = position_ids.gather(1, first)
    older = (cached - position).clamp(min=0)  # real tokens of documents before the current one
    column = torch.arange(real.shape[1], device=real.device)
    padding = torch.where(real | (column >= first + past_length), -1, column).amax(dim=-1, keepdim=True)
    beyond = position - (first + past_length - 1 - padding)  # the position, less the real tokens since the padding
    # Positions that continue from a padding's 0 or 1 count from there: they are no evidence of another document.
    packed = (older > 0) & (beyond != 1) & (beyond != 2) & is_real.any(dim=-1, keepdim=True)
    return torch.where(packed, (count <= older).sum(dim=-1, keepdim=True), 0)


def _breaks(position_ids: Tensor, step: Tensor, past_length: int | Tensor, is_real: Tensor | None) -> Tensor:
    """Whether another document begins at each query: [B, T] of bool."""
    if is_real is None:
        return torch.diff(position_ids, dim=-1, prepend=position_ids[:, :1] - 1) != 1
    latest = torch.where(is_real, step, -1).cummax(dim=-1).values
    previous = torch.nn.functional.pad(latest[:, :-1], (1, 0), value=-1)  # the real token before each, -1 if none here
    grown = position_ids - position_ids.gather(1, previous.clamp(min=0))
    first = position_ids.gather(1, is_real.int().argmax(dim=-1, keepdim=True))
    first = torch.where(torch.as_tensor(past_length, device=first.device) == 0, first, 0)
    may_begin = (step - previous == 1) | (position_ids == first)
    return is_real & (previous >= 0) & (grown != 1) & (grown != step - previous) & may_begin


def _packed(starts: Tensor) -> bool:
    return bool((starts > 0).any())


def _same_document(starts: Tensor, past_length: int | Tensor) -> Callable[..., Any]:
    def sees(batch_idx: Any, head_idx: Any, q_idx: Any, kv_idx: Any) -> Any:
        return kv_idx >= starts[batch_idx, q_idx - past_length]

    return sees


def flash_documents(starts: Tensor, past_length: int | Tensor, real: Tensor | None) -> dict[str, Any]:
    """What flash attention must be told of packed rows: all documents of the batch, laid end to end.

    transformers reads documents from position_ids for a batch of one row only, and not where there is a mask. Padding
    becomes documents of its own, which no real token sees.

    Args:
        starts: [B, T], from `document_starts`.
        past_length: How many keys the cache holds.
        real: [B, T] of bool, False on padding; None when there is none.

    Raises:
        ValueError: The cache holds tokens already, of which these lengths can say nothing.
    """
    if past_length > 0:
        raise ValueError(
            "flash attention cannot go on with packed documents from a filled cache: "
            "choose attn_implementation='sdpa' or 'flex_attention', or pass the documents in one call"
        )
    begins = starts == torch.arange(starts.shape[1], device=starts.device)
    if real is not None:
        begins[:, 1:] |= real[:, 1:] != real[:, :-1]
    begins[:, 0] = True
    ends = torch.cat((begins.flatten().nonzero().flatten(), torch.tensor([starts.numel()], device=starts.device)))
    longest = int(ends.diff().max())
    ends = ends.to(torch.int32)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
