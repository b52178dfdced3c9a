"""Normalisation layers."""

import torch
from torch import Tensor, nn

from forgather_core.parts.arguments import positive


class RMSNorm(nn.Module):
    """Root mean square layer normalisation (arXiv:1910.07467, eq. 4): x / sqrt(mean(x^2) + eps) * weight.

    The mean is taken in float32 whatever the dtype of x.

    Args:
        hidden_size: Size of the last dimension.
        eps: Added to the mean square.
    """

    def __init__(self, hidden_size: int, *, eps: float) -> None:
        super().__init__()
        positive(hidden_size=hidden_size)
        if not 0 <= eps < float("inf"):
            raise ValueError(f"eps must be at least 0 and finite, got {eps}")
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., hidden_size] -> the same shape and dtype."""
        x = hidden_states.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * x.to(hidden_states.dtype)

    @property
    def variance_epsilon(self) -> float:
        """`eps`, by the name that tools read of transformers' norms."""
        return self.eps

    @variance_epsilon.setter
    def variance_epsilon(self, eps: float) -> None:
        self.eps = eps

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"
