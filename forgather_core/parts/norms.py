"""Normalization layers."""

import torch
from torch import Tensor, nn

from forgather_core.parts.arguments import positive


class RMSNorm(nn.Module):
    """Root mean square layer normalization (arXiv:1910.07467, eq. 4): x / sqrt(mean(x^2) + eps) * weight.

    The mean is computed in float32 for x of any dtype.

    Args:
        hidden_size: Size of the last dimension.
        eps: Term added to the mean square.

    Raises:
        ValueError: `hidden_size` is not above 0, or `eps` is negative or not finite.
    """

    def __init__(self, hidden_size: int, *, eps: float) -> None:
        super().__init__()
        positive(hidden_size=hidden_size)
        if not 0 <= eps < float("inf"):
            raise ValueError(f"eps must be at least 0 and finite, got {eps}")
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalize [..., hidden_size]; the result has the same shape and dtype."""
        x = hidden_states.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * x.to(hidden_states.dtype)

    @property
    def variance_epsilon(self) -> float:
        """Return `eps`, under the name of transformers' norms, which tools read."""
        return self.eps

    @variance_epsilon.setter
    def variance_epsilon(self, eps: float) -> None:
        self.eps = eps

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"
