"""Rotary position embedding (RoFormer, arXiv:2104.09864, sec. 3.4.2), in the half-split form of the HF checkpoints."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import ROPE_INIT_FUNCTIONS

from forgather_core.parts.arguments import positive
from forgather_core.parts.computed_buffers import ComputedBuffers

USES_ORIGINAL_LENGTH = ("llama3", "longrope", "yarn")


@dataclass(frozen=True)
class RopeConfig:
    """The fields of a model configuration that transformers' RoPE functions read."""

    head_dim: int
    max_position_embeddings: int
    rope_parameters: dict[str, Any]
    num_attention_heads: int = 1

    @property
    def hidden_size(self) -> int:
        """Return the head size: some functions compute hidden_size / num_attention_heads first."""
        return self.head_dim

    def standardize_rope_params(self) -> None:
        """Do nothing: the functions call this, and the parameters are already in the standard form."""


class Rope(ComputedBuffers):
    """Cosines and sines of rotary positions: the angle of pair i at position m is m * theta^(-2i / head_dim).

    The scaled variants (linear, dynamic, yarn, longrope, llama3) use transformers' functions. The angles are float32 in
    a model of any dtype, and depend only on the positions of the call: dynamic and longrope choose their frequencies by
    the longest sequence of each call, and keep no state between calls.

    Args:
        head_dim: Size of a head, even.
        max_position_embeddings: Sequence length that the model is designed for; dynamic scales beyond it.
        rope_parameters: `rope_type`, `rope_theta`, and further parameters of the type.

    Raises:
        ValueError: A size is not above 0, or `head_dim` is odd.
    """

    inv_freq: Tensor
    long_inv_freq: Tensor | None

    def __init__(self, head_dim: int, *, max_position_embeddings: int, rope_parameters: dict[str, Any]) -> None:
        super().__init__()
        positive(max_position_embeddings=max_position_embeddings, head_dim=head_dim)
        if head_dim % 2:
            raise ValueError(f"head_dim must be even, got {head_dim}")
        self.rope_type = rope_parameters["rope_type"]
        if self.rope_type in USES_ORIGINAL_LENGTH:  # a mapping assigned to a configuration may lack it
            rope_parameters = {"original_max_position_embeddings": max_position_embeddings} | rope_parameters
        self.rope_config = RopeConfig(head_dim, max_position_embeddings, rope_parameters)
        inv_freq, self.attention_scaling = self._frequencies()
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("long_inv_freq", self._long_frequencies(), persistent=False)

    def _frequencies(
        self, device: torch.device | None = None, length: int | Tensor | None = None
    ) -> tuple[Tensor, float]:
        """Return frequencies [head_dim / 2] in float32, and the factor of cosines and sines."""
        if self.rope_type != "default":
            return ROPE_INIT_FUNCTIONS[self.rope_type](self.rope_config, device, seq_len=length)
        pairs = torch.arange(0, self.rope_config.head_dim, 2, dtype=torch.float32, device=device)
        return 1.0 / self.rope_config.rope_parameters["rope_theta"] ** (pairs / self.rope_config.head_dim), 1.0

    def _long_frequencies(self, device: torch.device | None = None) -> Tensor | None:
        if self.rope_type != "longrope":
            return None
        return self._frequencies(device, self.rope_config.rope_parameters["original_max_position_embeddings"] + 1)[0]

    def reset_buffers(self) -> None:
        """Recompute the frequencies."""
        device = self.inv_freq.device
        self.inv_freq = self._frequencies(device)[0]
        self.long_inv_freq = self._long_frequencies(device)

    def _frequencies_at(self, position_ids: Tensor) -> Tensor:
        inv_freq = self.inv_freq.to(position_ids.device)
        if self.rope_type == "dynamic":
            last = position_ids.max()
            scaled, _ = self._frequencies(position_ids.device, last.float() + 1)
            return torch.where(last >= self.rope_config.max_position_embeddings, scaled, inv_freq)
        if self.long_inv_freq is not None:
            limit = self.rope_config.rope_parameters["original_max_position_embeddings"]
            return torch.where(position_ids.max() >= limit, self.long_inv_freq.to(position_ids.device), inv_freq)
        return inv_freq

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosines and sines of positions, in the layout of transformers' models.

        Args:
            x: Any tensor; the result has its dtype.
            position_ids: [B, T].

        Returns:
            Cosines and sines [B, T, head_dim]; i and i + head_dim/2 have the same angle.
        """
        angles = position_ids[..., None].float() * self._frequencies_at(position_ids)
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)
