"""Randomize weights so that comparisons of models reveal mistakes."""

from __future__ import annotations

import torch
from torch import nn


def randomize_weights(model: nn.Module, seed: int, *, frozen: bool = True) -> None:
    """Replace all weights by random values, large enough that leaks, norms and biases affect the logits.

    Initial weights hide mistakes: their attention is close to uniform, their biases are 0 and their norms 1.

    Args:
        model: A model on the CPU. Scales (norm weights, ALiBi slopes) vary around their current values.
        seed: Seed of the random numbers.
        frozen: Whether to replace parameters that are not trainable, too. In other classes they are constants, such as
            the sines of positions.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not (frozen or parameter.requires_grad):
                continue
            drawn = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            if parameter.dim() >= 2 and min(parameter.shape) > 1:
                parameter.copy_(1.5 * drawn * parameter.shape[-1] ** -0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * drawn)
            else:  # scales: norm weights, ALiBi slopes
                parameter.mul_(1 + 0.2 * drawn).add_(0.05 * drawn)
