"""Rotating heads by their positions (RoFormer, arXiv:2104.09864, eq. 34), in the half-split form of HF checkpoints."""

import torch
from torch import Tensor


def rotate(x_BHTK: Tensor, cos_BTK: Tensor, sin_BTK: Tensor) -> Tensor:
    """Rotate each pair (i, i + K/2) of the head dimension K by its angle: `rotate_all` for one tensor."""
    return rotate_all((x_BHTK,), cos_BTK, sin_BTK)[0]


def rotate_all(heads: tuple[Tensor, ...], cos_BTK: Tensor, sin_BTK: Tensor) -> list[Tensor]:
    """Rotate each pair (i, i + K/2) of the head dimension K by its angle.

    A roll gives the other number of each pair, and the sign goes to the sines, once for all tensors: when one token is
    generated at a time, the number of operations decides the time.

    Args:
        heads: Tensors [B, H, T, K], such as queries and keys.
        cos_BTK, sin_BTK: Cosines and sines as `Rope` returns them, [B or 1, T, K]; both halves of K are equal.

    Returns:
        The rotated tensors.
    """
    half = sin_BTK.shape[-1] // 2
    cos_B1TK, first = cos_BTK.unsqueeze(1), sin_BTK.unsqueeze(1).narrow(-1, 0, half)
    signed_B1TK = torch.cat((-first, first), dim=-1)
    return [x * cos_B1TK + x.roll(half, dims=-1) * signed_B1TK for x in heads]
