"""Sinusoidal position embeddings (arXiv:1706.03762, sec. 3.5)."""

import torch
from torch import Tensor

from forgather_core.parts.arguments import positive
from forgather_core.parts.computed_buffers import ComputedBuffers


class SinusoidalPositions(ComputedBuffers):
    """Position embeddings PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(pos / 10000^(2i/d)).

    Angles are float32 in a model of any dtype. They are computed at each call, without a maximum length.

    Args:
        hidden_size: d, even.

    Raises:
        ValueError: `hidden_size` is not above 0, or is odd.
    """

    inv_freq: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        positive(hidden_size=hidden_size)
        if hidden_size % 2:
            raise ValueError(f"hidden_size must be even, got {hidden_size}")
        self.hidden_size = hidden_size
        self.register_buffer("inv_freq", self._frequencies(), persistent=False)

    def _frequencies(self, device: torch.device | None = None) -> Tensor:
        channels = torch.arange(0, self.hidden_size, 2, dtype=torch.float32, device=device)
        return 10000.0 ** (-channels / self.hidden_size)

    def reset_buffers(self) -> None:
        """Recompute the frequencies."""
        self.inv_freq = self._frequencies(self.inv_freq.device)

    @torch.no_grad()
    def forward(self, position_ids: Tensor) -> Tensor:
        """Return the embeddings [B, T, hidden_size], float32, of positions [B, T]."""
        angles = position_ids[..., None].float() * self.inv_freq.to(position_ids.device)
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
