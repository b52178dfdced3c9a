"""The arguments of a call, as a case describes them.

Shapes: B rows, W columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...data.batches import IGNORE_INDEX
from ..cached_forward import cache_argument, empty_cache
from .factors import Case
from .layout import Layout

OTHER_IGNORED = -7
ITEMS = 7


def labels_of(case: Case, layout: Layout) -> Tensor:
    """Return the labels of a case, [B, W]; -100 (or the level's value) where there is no target."""
    labels = torch.full_like(layout.ids, OTHER_IGNORED if case["labels"] == "ignore-index" else IGNORE_INDEX)
    for one in layout.documents:
        for index in targets_of(case, one.targets):
            labels[one.row, one.columns[index]] = one.tokens[index]
    return labels


def targets_of(case: Case, targets: Tensor) -> Tensor:
    """Return the targets of a document that the labels of a case keep."""
    return targets[targets % 3 != 0] if case["labels"] == "some-ignored" else targets


def position_arguments(case: Case, layout: Layout, passes_positions: bool) -> dict[str, Tensor]:
    """Return the positions [B, W], if the case gives them; see `call` for `passes_positions`."""
    given = case["positions"] == "given" or (passes_positions and case["padding"] != "none")
    return {"position_ids": layout.positions} if given else {}


def cache_arguments(model: Any, case: Case, width: int) -> dict[str, Any]:
    """Return the cache of a call with W columns, empty."""
    if case["cache"] == "none":
        return {"use_cache": False}
    if case["cache"] == "default":
        return {}
    return {"use_cache": True, cache_argument(model): empty_cache(case["cache"], model, width + 4)}


def logits_to_keep(case: Case, width: int) -> int | Tensor | None:
    """Return the number of last columns whose logits are returned, or their indices; None means all W columns."""
    if case["keep"] == "last":
        return min(3, width)
    return torch.tensor(sorted({0, width // 2, width - 1})) if case["keep"] == "indices" else None


def label_arguments(case: Case, layout: Layout) -> dict[str, Any]:
    """Return the labels and the arguments that change how they are counted."""
    labels = labels_of(case, layout)
    if case["labels"] == "num-items":
        return {"labels": labels, "num_items_in_batch": ITEMS}
    if case["labels"] == "ignore-index":
        return {"labels": labels, "ignore_index": OTHER_IGNORED}
    if case["labels"] == "shift-labels":
        return {"labels": labels, "shift_labels": nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)}
    return {"labels": labels}


def attention_mask(case: Case, layout: Layout, windows: tuple[int | None, ...], dtype: torch.dtype) -> Tensor:
    """Return the attention mask: [B, W], 0 on padding; or [B, 1, W, W], complete."""
    if case["mask"] == "2d":
        return layout.real.long()
    document = layout.document_of()
    column = torch.arange(layout.ids.shape[1])
    allowed = (document[:, :, None] == document[:, None, :]) & (column[:, None] >= column[None, :])
    window = windows[0] if windows else None
    if window is not None:
        rank = layout.real.long().cumsum(-1) - 1
        allowed &= rank[:, :, None] - rank[:, None, :] < window
    allowed |= torch.eye(layout.ids.shape[1], dtype=torch.bool)  # padding attends to itself: no row is empty
    if case["mask"] == "4d-bool":
        return allowed[:, None]
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def uneven(width: int) -> tuple[int, ...]:
    """Return sizes of pieces that differ, the second a single token."""
    sizes, left = [], width
    for size in (width // 3, 1, width // 4, 2):
        if 0 < size < left:
            sizes.append(size)
            left -= size
    return (*sizes, left)
