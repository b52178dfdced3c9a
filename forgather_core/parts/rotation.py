"""Rotation of heads by position (RoFormer, arXiv:2104.09864, eq. 34), in the half-split form of HF checkpoints."""

import torch
from torch import Tensor


def rotate(x_BHTK: Tensor, cos_BTK: Tensor, sin_BTK: Tensor) -> Tensor:
    """Rotate each pair (i, i + K/2) of the head dimension K by its angle: `rotate_all` for one tensor."""
    return rotate_all((x_BHTK,), cos_BTK, sin_BTK)[0]


def rotate_all(heads: tuple[Tensor, ...], cos_BTK: Tensor, sin_BTK: Tensor) -> list[Tensor]:
    """Rotate each pair (i, i + K/2) of the head dimension K by its angle.

    A roll gives the other element of each pair, and the signs are folded into the sines, which all layers share: when
    tokens are generated one at a time, the number of operations determines the time.

    Args:
        heads: Tensors [B, H, T, K], such as queries and keys.
        cos_BTK, sin_BTK: Cosines and sines as `Rope` returns them, [B or 1, T, K]; both halves of K are equal.

    Returns:
        The rotated tensors, [B, H, T, K] each.
    """
    half = sin_BTK.shape[-1] // 2
    cos_B1TK, signed_B1TK = _factors(cos_BTK, sin_BTK, half)
    return [x * cos_B1TK + x.roll(half, dims=-1) * signed_B1TK for x in heads]


def _factors(cos_BTK: Tensor, sin_BTK: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Return the cosines, and the sines with a negative first half, each [B or 1, 1, T, K].

    The signed sines are cached on the tensor of sines, which all layers share, until it is modified or freed.
    """
    if torch.compiler.is_compiling() or sin_BTK.is_inference():  # these have no version counter
        return cos_BTK.unsqueeze(1), _signed(sin_BTK, half)
    version, kept = getattr(sin_BTK, "_signed", (None, None))
    if kept is None or version != sin_BTK._version:
        kept = _signed(sin_BTK, half)
        sin_BTK._signed = (sin_BTK._version, kept)  # type: ignore[attr-defined]
    return cos_BTK.unsqueeze(1), kept


def _signed(sin_BTK: Tensor, half: int) -> Tensor:
    first = sin_BTK.unsqueeze(1).narrow(-1, 0, half)
    return torch.cat((-first, first), dim=-1)
