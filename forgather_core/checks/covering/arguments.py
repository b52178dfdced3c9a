"""The arguments of a call, as a case describes them.

Shapes: B rows, W columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...data.batches import IGNORE_INDEX
from .factors import Case
from .layout import PADDING, Document, Layout

OTHER_IGNORED = -7
ITEMS = 7


def labels_of(case: Case, layout: Layout) -> Tensor:
    """Return the labels of a case, [B, W]; -100 (or the level's value) where there is no target."""
    labels = torch.full_like(layout.ids, OTHER_IGNORED if case["labels"] == "ignore-index" else IGNORE_INDEX)
    for one in layout.documents:
        targets, ids = targets_of(case, one, layout)
        labels[one.row, one.columns[targets]] = ids
        if one.columns[0] == 0 and case["labels"] in ("all", "num-items", "special"):
            labels[one.row, 0] = one.tokens[0]  # no token predicts it, nor does the last one of the row before
    return labels


def targets_of(case: Case, document: Document, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return the indices of the tokens of a document that are targets, and their token ids."""
    targets = document.targets
    if case["labels"] == "all-ignored":
        targets = targets[:0]
    elif case["labels"] in ("some-ignored", "ignore-index"):
        targets = targets[targets % 3 != 0]
    ids = document.tokens[targets]
    if case["labels"] == "special" and layout.special_ids:
        special = torch.tensor(layout.special_ids)
        ids = torch.where(targets % 3 == 0, special[targets % len(special)], ids)
    return targets, ids


def position_arguments(case: Case, layout: Layout, passes_positions: bool) -> dict[str, Tensor]:
    """Return the argument position_ids [B, W], if the case passes it; see `call` for `passes_positions`."""
    given = case["positions"] == "given" or (passes_positions and case["padding"] != "none")
    return {"position_ids": layout.positions} if given else {}


def logits_to_keep(case: Case, width: int) -> int | Tensor | None:
    """Return the number of last columns whose logits are returned, or their indices; None means all W columns."""
    if case["logits_to_keep"] == "last":
        return min(PADDING + 2, width)  # more than the padding on the right
    return torch.tensor(sorted({0, width // 2, width - 1})) if case["logits_to_keep"] == "indices" else None


def label_arguments(case: Case, layout: Layout) -> dict[str, Any]:
    """Return the labels and the arguments that change how they are counted."""
    labels = labels_of(case, layout)
    if divides_by_items(case):
        return {"labels": labels, "num_items_in_batch": ITEMS}
    if case["labels"] == "ignore-index":
        return {"labels": labels, "ignore_index": OTHER_IGNORED}
    if case["labels"] == "shift-labels":
        shifted = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        return {"labels": labels.flip(1), "shift_labels": shifted}  # wrong labels, which must have no effect
    return {"labels": labels}


def divides_by_items(case: Case) -> bool:
    """Return whether the loss is a sum divided by `ITEMS`: a mean over no targets is NaN."""
    return case["labels"] in ("num-items", "all-ignored")


def attention_mask(case: Case, layout: Layout, windows: tuple[int | None, ...], dtype: torch.dtype) -> Any:
    """Return the attention mask: [B, W], 0 on padding; or [B, 1, W, W], complete; or a dict of the latter."""
    if case["mask"] == "2d":
        return layout.real.long()
    if case["mask"] == "dict":
        window = next((size for size in windows if size is not None), None)
        kinds = {"full_attention": None, "sliding_attention": window}
        return {kind: _additive(_allowed(layout, size), dtype) for kind, size in kinds.items()}
    window = windows[0] if windows else None
    if case["mask"] == "4d-bool":
        return _allowed(layout, window)
    return _additive(_allowed(layout, window, padding_sees=case["chunks"] == "whole"), dtype)


def _allowed(layout: Layout, window: int | None, *, padding_sees: bool = True) -> Tensor:
    """Return the keys that each query attends to, [B, 1, W, W] of bool.

    Args:
        layout: The rows.
        window: The sliding window; None for none.
        padding_sees: Whether padding attends to itself. Otherwise its rows hide all keys.
    """
    document = layout.document_of()
    column = torch.arange(layout.ids.shape[1])
    allowed = (document[:, :, None] == document[:, None, :]) & (column[:, None] >= column[None, :])
    if window is not None:
        rank = layout.real.long().cumsum(-1) - 1
        allowed &= rank[:, :, None] - rank[:, None, :] < window
    own = torch.eye(layout.ids.shape[1], dtype=torch.bool)
    allowed = (allowed | own) if padding_sees else (allowed & layout.real[:, :, None])
    return allowed[:, None]


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


def uneven(width: int) -> tuple[int, ...]:
    """Return chunk sizes that differ; the second chunk is a single token."""
    sizes, left = [], width
    for size in (width // 3, 1, width // 4, 2):
        if 0 < size < left:
            sizes.append(size)
            left -= size
    return (*sizes, left)
