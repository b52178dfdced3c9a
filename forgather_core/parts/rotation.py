"""Rotating heads by their positions (RoFormer, arXiv:2104.09864, eq. 34), in the half-split form of HF checkpoints."""

import weakref

import torch
from torch import Tensor


def rotate(x_BHTK: Tensor, cos_BTK: Tensor, sin_BTK: Tensor) -> Tensor:
    """Rotate each pair (i, i + K/2) of the head dimension K by its angle: `rotate_all` for one tensor."""
    return rotate_all((x_BHTK,), cos_BTK, sin_BTK)[0]


def rotate_all(heads: tuple[Tensor, ...], cos_BTK: Tensor, sin_BTK: Tensor) -> list[Tensor]:
    """Rotate each pair (i, i + K/2) of the head dimension K by its angle.

    A roll gives the other number of each pair, and the sign goes to the sines, which all layers share: when one token
    is generated at a time, the number of operations decides the time.

    Args:
        heads: Tensors [B, H, T, K], such as queries and keys.
        cos_BTK, sin_BTK: Cosines and sines as `Rope` returns them, [B or 1, T, K]; both halves of K are equal.

    Returns:
        The rotated tensors.
    """
    half = sin_BTK.shape[-1] // 2
    cos_B1TK, signed_B1TK = _factors(cos_BTK, sin_BTK, half)
    return [x * cos_B1TK + x.roll(half, dims=-1) * signed_B1TK for x in heads]


_Factors = tuple[Tensor, Tensor]
_Latest = tuple[weakref.ref[Tensor], weakref.ref[Tensor], tuple[int, int], _Factors]
_LATEST: list[_Latest | None] = [None]


def _factors(cos_BTK: Tensor, sin_BTK: Tensor, half: int) -> _Factors:
    """The cosines, and the sines with a negative first half, [B or 1, 1, T, K]; those of the latest call are kept."""
    if torch.compiler.is_compiling() or sin_BTK.is_inference() or cos_BTK.is_inference():  # those count no changes
        return _computed(cos_BTK, sin_BTK, half)
    latest, versions = _LATEST[0], (cos_BTK._version, sin_BTK._version)
    if latest is not None and latest[0]() is cos_BTK and latest[1]() is sin_BTK and latest[2] == versions:
        return latest[3]
    factors = _computed(cos_BTK, sin_BTK, half)
    _LATEST[0] = (weakref.ref(cos_BTK), weakref.ref(sin_BTK), versions, factors)
    return factors


def _computed(cos_BTK: Tensor, sin_BTK: Tensor, half: int) -> _Factors:
    first = sin_BTK.unsqueeze(1).narrow(-1, 0, half)
    return cos_BTK.unsqueeze(1), torch.cat((-first, first), dim=-1)
