"""Rotating heads by their positions (RoFormer, arXiv:2104.09864, eq. 34), in the half-split form of HF checkpoints."""

import torch
from torch import Tensor


def rotate(x_BHTK: Tensor, cos_BTK: Tensor, sin_BTK: Tensor) -> Tensor:
    """Rotate each pair (i, i + K/2) of the head dimension K by its angle."""
    low, high = x_BHTK.chunk(2, dim=-1)
    return x_BHTK * cos_BTK.unsqueeze(1) + torch.cat((-high, low), dim=-1) * sin_BTK.unsqueeze(1)
