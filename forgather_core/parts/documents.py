"""Documents packed into one row: each begins at a break of position_ids, and its tokens read no earlier document.

transformers detects packing only without an attention mask and without a cache, and a cache is its default. Here
packing always applies.

Shapes: B batch, T query length, S key length (cached keys included).
"""

from typing import Any

import torch
from torch import Tensor


class Documents:
    """The documents of the rows of one call.

    Args:
        position_ids: [B or 1, T], passed by the caller.
        attention_mask: [B, S], 0 on padding; or None for no padding.
        past_length: Number of cached tokens.
        batch_size: B.
    """

    def __init__(
        self, position_ids: Tensor, attention_mask: Tensor | None, past_length: int | Tensor, batch_size: int
    ) -> None:
        self.past_length = past_length
        self.real = attention_mask.to(position_ids.device, torch.bool) if attention_mask is not None else None
        self.starts = document_starts(position_ids.expand(batch_size, -1), past_length, self.real)

    def packed(self) -> bool:
        """Return whether a query has an earlier document in its row."""
        return bool((self.starts > 0).any())

    def may_be_packed(self) -> bool:
        """Return `packed()`, or True while values are unknown."""
        return torch.compiler.is_compiling() or self.starts.is_meta or self.packed()

    def same_document(self, batch_idx: Any, head_idx: Any, q_idx: Any, kv_idx: Any) -> Any:
        """Return whether a key belongs to no earlier document than the query: a function for transformers' masks."""
        return kv_idx >= self.starts[batch_idx, q_idx - self.past_length]

    def flash_arguments(self) -> dict[str, Any]:
        """Return `flash_documents` of these rows."""
        return flash_documents(self.starts, self.past_length, self.real)


def document_starts(position_ids: Tensor, past_length: int | Tensor, real: Tensor | None = None) -> Tensor:
    """Return, for each query, the index among cached and new keys at which its document begins.

    A document continues while positions grow by one from token to token. Padding between tokens is skipped, whether or
    not positions count it. After padding, a document begins only at the position with which the row begins: generate()
    continues from the position of the last token, even if that is padding (0, 1, 2, 0, 0 | 1). Until the first break,
    queries continue the last cached document, whose start follows from their position.

    One case is indistinguishable from a padded prompt that `generate` continues: a call with a cache that begins one or
    two tokens into a packed document and directly after padding within that document. It attends to earlier documents.

    Args:
        position_ids: [B, T], passed by the caller.
        past_length: Number of cached keys.
        real: [B, S] of bool, False on padding; None for no padding.

    Returns:
        [B, T], never decreasing along a row; 0 if no earlier key is hidden.
    """
    step = torch.arange(position_ids.shape[1], device=position_ids.device).expand_as(position_ids)
    is_real = real.gather(1, (step + past_length).clamp(max=real.shape[1] - 1)) if real is not None else None
    start = _start_in_cache(position_ids, past_length, real, is_real)
    if position_ids.shape[1] == 1:  # a single token, as in generate(), has no break within the call
        return start
    breaks = _breaks(position_ids, step, past_length, is_real)
    return torch.where(breaks, step + past_length, start).cummax(dim=-1).values


def _start_in_cache(
    position_ids: Tensor, past_length: int | Tensor, real: Tensor | None, is_real: Tensor | None
) -> Tensor:
    """Return the index [B, 1] at which the document of the first queries begins."""
    if real is None or is_real is None:
        return (past_length - position_ids[:, :1]).clamp(min=0)
    count = real.long().cumsum(dim=-1)  # real tokens up to each key, itself included
    first = is_real.int().argmax(dim=-1, keepdim=True)
    cached = count.gather(1, (first + past_length).clamp(max=real.shape[1] - 1)) - is_real.gather(1, first).long()
    position = position_ids.gather(1, first)
    older = (cached - position).clamp(min=0)  # real tokens of documents before the current one
    column = torch.arange(real.shape[1], device=real.device)
    padding = torch.where(real | (column >= first + past_length), -1, column).amax(dim=-1, keepdim=True)
    beyond = position - (first + past_length - 1 - padding)  # position minus real tokens since the padding
    # Positions may continue from a padding's 0 or 1: such positions do not indicate another document.
    packed = (older > 0) & (beyond != 1) & (beyond != 2) & is_real.any(dim=-1, keepdim=True)
    return torch.where(packed, (count <= older).sum(dim=-1, keepdim=True), 0)


def _breaks(position_ids: Tensor, step: Tensor, past_length: int | Tensor, is_real: Tensor | None) -> Tensor:
    """Return whether another document begins at each query: [B, T] of bool."""
    if is_real is None:
        return torch.diff(position_ids, dim=-1, prepend=position_ids[:, :1] - 1) != 1
    latest = torch.where(is_real, step, -1).cummax(dim=-1).values
    previous = torch.nn.functional.pad(latest[:, :-1], (1, 0), value=-1)  # previous real token, -1 if none in the call
    increase = position_ids - position_ids.gather(1, previous.clamp(min=0))
    first = position_ids.gather(1, is_real.int().argmax(dim=-1, keepdim=True))
    first = torch.where(torch.as_tensor(past_length, device=first.device) == 0, first, 0)
    may_begin = (step - previous == 1) | (position_ids == first)
    return is_real & (previous >= 0) & (increase != 1) & (increase != step - previous) & may_begin


def flash_documents(starts: Tensor, past_length: int | Tensor, real: Tensor | None) -> dict[str, Any]:
    """Return flash attention's arguments for packed rows: the concatenated documents of the batch.

    transformers reads documents from position_ids for a batch of one row only, and not with a mask. Padding becomes
    separate documents, to which no real token attends.

    Args:
        starts: [B, T], from `document_starts`.
        past_length: Number of cached keys.
        real: [B, T] of bool, False on padding; None for no padding.

    Raises:
        ValueError: The cache contains tokens, which these lengths do not cover.
    """
    if past_length > 0:
        raise ValueError(
            "flash attention does not support packed documents with a filled cache: "
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
