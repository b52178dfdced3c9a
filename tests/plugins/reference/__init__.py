"""Plain float64 references, written from the papers' equations: slow, short, and of no line of the product.

Each takes weights by name, the token ids of one document, and numbers; it gives logits [T, V].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def float64(state_dict: Weights, *, trainable: bool = False) -> dict[str, Tensor]:
    """Copies of the weights in float64; `trainable` to take gradients of them."""
    return {name: value.detach().double().requires_grad_(trainable) for name, value in state_dict.items()}


def surprise(logits: Tensor, ids: Tensor) -> Tensor:
    """-log p(token t+1 | tokens up to t) for each token but the first, [T - 1]."""
    losses = [logits.new_zeros(0)]
    for row, following in zip(logits[:-1], ids[1:], strict=True):
        highest = row.max()
        losses.append((highest + (row - highest).exp().sum().log() - row[following])[None])
    return torch.cat(losses)


def softmax(scores: list[Tensor]) -> list[Tensor]:
    """exp(s_j) / sum_k exp(s_k), of scalars."""
    highest = max(score.item() for score in scores)
    exponentials = [(score - highest).exp() for score in scores]
    total = sum(exponentials)
    return [exponential / total for exponential in exponentials]


def sees(query: int, window: int | None) -> range:
    """The keys that a query sees: itself and what is before it, `window` in all."""
    return range(0 if window is None else max(0, query - window + 1), query + 1)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """arXiv:1910.07467, eq. 4, for each row: a_i / RMS(a) * g_i, RMS(a) = sqrt(mean(a^2)); eps below the root."""
    rows = [row / ((row * row).sum() / len(row) + eps).sqrt() * weight for row in x]
    return torch.stack(rows)


def relu_glu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """arXiv:2002.05202, eq. 6: (max(0, x W) * (x V)) W_2, here with matrices [out, in]."""
    gated = x @ gate.T
    return ((gated * (gated > 0)) * (x @ up.T)) @ down.T
