"""A block of this package's own."""

from typing import Any

from torch import Tensor, nn

from forgather_core.parts.blocks import Block


class ParallelBlock(Block):
    """x = x + scale * (attn(norm(x)) + mlp(norm(x)))."""

    def __init__(self, *, norm: nn.Module, self_attn: nn.Module, mlp: nn.Module, scale: float) -> None:
        super().__init__()
        self.norm, self.self_attn, self.mlp, self.scale = norm, self_attn, mlp, scale

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        normed = self.norm(hidden_states)
        attended, _ = self.self_attn(normed, **kwargs)
        return hidden_states + self.scale * (attended + self.mlp(normed))
