"""Attention with linear biases (ALiBi, arXiv:2108.12409, sec. 3): slope_h * (k - q) is added to the score of head h.

Embeddings carry no positions: the bias lowers the scores of distant keys, with a separate slope for each head.

Shapes: B batch, T query length, S key length (with cached keys), H query heads, G key/value heads, K head dimension.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.flex_attention import compile_friendly_flex_attention

from forgather_core.parts.alibi_flash import flash_attention_with_alibi
from forgather_core.parts.arguments import positive
from forgather_core.parts.positions import TokenPositions, token_positions


def paper_slopes(num_heads: int) -> list[float]:
    """Return the slopes of the paper: 2^(-8i/H) for head i = 1 ... H if H is a power of two (sec. 3).

    Otherwise, as in the paper's code: the slopes of the next lower power of two, then every other slope of the next
    higher one.

    Returns:
        H slopes.

    Raises:
        ValueError: `num_heads` is not above 0.
    """
    positive(num_heads=num_heads)
    below = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * i / below) for i in range(1, below + 1)]
    return slopes + [2 ** (-8 * i / (2 * below)) for i in range(1, 2 * below + 1, 2)][: num_heads - below]


def half_slopes(num_heads: int) -> list[float]:
    """Return 2^-(1 + 7i/(H-1)) for heads i = 0, 1, ... of the first half of H, and 0 (no position) for the others.

    Raises:
        ValueError: `num_heads` is not above 0.
    """
    positive(num_heads=num_heads)
    first = (num_heads + 1) // 2
    return [2 ** -(1 + 7 * i / max(num_heads - 1, 1)) for i in range(first)] + [0.0] * (num_heads - first)


class Alibi(nn.Module):
    """The slopes of the heads of one layer: a parameter `slopes` [H], float32 in a model of any dtype.

    It has the form of a linear layer from a distance to H biases: tensor parallelism splits it like the heads, and FSDP
    wraps its `forward`.

    Args:
        slopes: The initial values, one for each head.
        trainable: Whether the slopes receive gradients.

    Raises:
        ValueError: There are no slopes, or one is not finite.
    """

    def __init__(self, slopes: Sequence[float], *, trainable: bool) -> None:
        super().__init__()
        if len(slopes) == 0 or any(not math.isfinite(slope) for slope in slopes):
            raise ValueError(f"slopes must be at least one finite number, got {list(slopes)}")
        self.trainable = trainable
        self.slopes = nn.Parameter(torch.tensor(slopes, dtype=torch.float32), requires_grad=trainable)
        self.in_features, self.out_features = 1, len(slopes)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter and apply `trainable`: loaders replace the parameter by a trainable one."""
        if param is not None:
            param.requires_grad_(self.trainable)
        super().register_parameter(name, param)

    def forward(self, distance: Tensor) -> Tensor:
        """Return slope * distance [H], float32, for a distance [1]."""
        return distance * self.slopes

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Alibi":
        exact = self.slopes.detach()
        super()._apply(fn, recurse)
        # model.to(bfloat16) must not round the slopes to 8 bits: this would change the positions.
        if self.slopes.dtype != torch.float32 and self.slopes.is_floating_point():
            self.slopes.data = exact.to(self.slopes.device, torch.float32)
        return self

    @staticmethod
    def attention_function(function: Callable[..., Any], implementation: str) -> Callable[..., Any]:
        """Wrap transformers' attention function: the result takes `slopes` and `token_positions`, and adds the biases.

        Args:
            function: The attention function.
            implementation: Its name, such as "sdpa".

        Raises:
            ValueError: The implementation does not support a bias.
        """
        if implementation.removeprefix("paged|") in ("eager", "sdpa"):  # continuous batching adds the prefix
            return _additive(function)
        if implementation == "flex_attention":
            return _flex
        if "flash" in implementation:
            return flash_attention_with_alibi
        raise ValueError(
            f"attn_implementation '{implementation}' does not support ALiBi: choose eager, sdpa or flex_attention"
        )

    @staticmethod
    def arguments(inputs_embeds: Tensor, attention_mask: Any, **where: Any) -> dict[str, Any]:
        """Return the keyword arguments of the wrapped function except the slopes.

        `where` is passed to `token_positions`.
        """
        return {"token_positions": token_positions(inputs_embeds, attention_mask, **where)}

    def extra_repr(self) -> str:
        """Return the description in print(model)."""
        return f"{self.out_features}, trainable={self.slopes.requires_grad}"


def _additive(attention_function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an attention function that adds bias and mask in one mask [B or 1, H, T, S], in float32 or wider."""

    def attention(
        module: Any,
        query_BHTK: Tensor,
        key_BGSK: Tensor,
        value_BGSK: Tensor,
        attention_mask: Tensor | None,
        *,
        slopes: Tensor,
        token_positions: TokenPositions,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        distance, dtype = token_positions.distance(), query_BHTK.dtype
        bias = (slopes.view(-1, 1, 1) * distance).to(torch.promote_types(dtype, torch.float32))
        least = torch.finfo(dtype).min
        if attention_mask is None:  # transformers sets sdpa's is_causal only without a mask
            bias = bias.masked_fill(distance > 0, least)
        elif attention_mask.dtype == torch.bool:
            bias = bias.masked_fill(~attention_mask, least)
        else:
            bias = (bias + attention_mask).clamp(min=least)
        return attention_function(module, query_BHTK, key_BGSK, value_BGSK, bias.to(dtype), **kwargs)

    return attention


def _flex(
    module: Any,
    query_BHTK: Tensor,
    key_BGSK: Tensor,
    value_BGSK: Tensor,
    attention_mask: Any,
    *,
    slopes: Tensor,
    token_positions: TokenPositions,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Pass the bias as a score_mod and the mask as a block mask: no tensor of size T x S is materialized."""
    if dropout > 0:
        raise ValueError("flex_attention does not support dropout: choose eager or sdpa, or set attention_dropout to 0")
    query_position, key_position = (x.expand(query_BHTK.shape[0], *x.shape[1:]) for x in token_positions)

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        key = key_position[b, kv] if key_position.dim() == 2 else key_position[b, q, kv]
        return score + slopes[h] * (key - query_position[b, q])

    result_BHTK: Any = compile_friendly_flex_attention(
        query_BHTK,
        key_BGSK,
        value_BGSK,
        score_mod=score_mod,
        block_mask=attention_mask,
        enable_gqa=key_BGSK.shape[1] != query_BHTK.shape[1],
        scale=scaling,
        training=module.training,
    )
    return result_BHTK.transpose(1, 2).contiguous(), None
