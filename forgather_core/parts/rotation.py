"""Rotating heads by their positions (RoFormer, arXiv:2104.09864, eq. 34), in the half-split form of HF checkpoints."""

from torch import Tensor


def rotate(x_BHTK: Tensor, cos_B1TK: Tensor, sin_B1TK: Tensor) -> Tensor:
    """Rotate each pair (i, i + K/2) of the head dimension K by its angle.

    Of each pair the other number comes by a roll, and the sign with the sines, of which `Rope` gives the first half
    negative: at one token a step, what costs is how many operations there are.
    """
    return x_BHTK * cos_B1TK + x_BHTK.roll(x_BHTK.shape[-1] // 2, dims=-1) * sin_B1TK
