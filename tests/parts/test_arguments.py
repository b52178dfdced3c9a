"""Parts check their arguments when they are constructed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forgather_core.parts.alibi import Alibi, half_slopes, paper_slopes
from forgather_core.parts.attention import Attention
from forgather_core.parts.blocks import PreNormBlock
from forgather_core.parts.feed_forward import FeedForward, GatedFeedForward
from forgather_core.parts.norms import RMSNorm
from forgather_core.parts.rope import Rope
from forgather_core.parts.single_head_attention import SingleHeadAttention
from forgather_core.parts.sinusoidal import SinusoidalPositions

DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 1e4}


def attention(**options: Any) -> Attention:
    given: dict[str, Any] = {"layer_idx": 0, "num_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    return Attention(32, **(given | options))


def block(dropout: float) -> PreNormBlock:
    return PreNormBlock(
        input_layernorm=nn.Identity(),
        self_attn=nn.Identity(),
        post_attention_layernorm=nn.Identity(),
        mlp=nn.Identity(),
        dropout=dropout,
    )


@pytest.mark.regression("kv-groups")
@pytest.mark.parametrize(("heads", "groups"), [(5, 2), (4, 3), (2, 4), (1, 2)])
def test_key_value_heads_divide_the_heads(heads: int, groups: int) -> None:
    with pytest.raises(ValueError, match=rf"{heads}\D+{groups}"):
        attention(num_heads=heads, num_key_value_heads=groups)


@pytest.mark.regression("kv-groups")
@pytest.mark.parametrize(
    ("construct", "numbers"),
    [
        (lambda: attention(num_heads=0), "0"),
        (lambda: attention(num_key_value_heads=0), "0"),
        (lambda: attention(head_dim=-8), "-8"),
        (lambda: attention(dropout=1.0), "1.0"),
        (lambda: attention(dropout=-0.1), "-0.1"),
        (lambda: attention(sliding_window=0), "0"),
        (lambda: attention(layer_idx=-1), "-1"),
        (lambda: attention(alibi=Alibi([0.5, 0.25], trainable=True)), r"2\D+4"),
        (lambda: SingleHeadAttention(0, layer_idx=0), "0"),
        (lambda: SingleHeadAttention(8, layer_idx=0, alibi=Alibi([0.5, 0.25], trainable=True)), r"2\D+1"),
        (lambda: Alibi([], trainable=True), r"\[\]"),
        (lambda: Alibi([float("nan")], trainable=True), "nan"),
        (lambda: paper_slopes(0), "0"),
        (lambda: half_slopes(0), "0"),
        (lambda: FeedForward(8, 0, activation="relu"), "0"),
        (lambda: FeedForward(8, 8, activation="relu", dropout=1.5), "1.5"),
        (lambda: GatedFeedForward(-1, 8, activation="silu"), "-1"),
        (lambda: GatedFeedForward(8, 8, activation="nonsense"), "nonsense"),
        (lambda: RMSNorm(0, eps=1e-6), "0"),
        (lambda: RMSNorm(8, eps=-1.0), "-1.0"),
        (lambda: Rope(7, max_position_embeddings=8, rope_parameters=DEFAULT_ROPE), "7"),
        (lambda: Rope(8, max_position_embeddings=0, rope_parameters=DEFAULT_ROPE), "0"),
        (lambda: SinusoidalPositions(9), "9"),
        (lambda: block(1.0), "1.0"),
    ],
)
def test_bad_arguments_are_refused(construct: Callable[[], Any], numbers: str) -> None:
    with pytest.raises(ValueError, match=numbers):
        construct()


def test_parts_are_constructed_on_meta() -> None:
    with torch.device("meta"):
        assert attention(alibi=Alibi(paper_slopes(4), trainable=True)).q_proj.weight.is_meta


class Scaled(nn.Module):
    """A module that multiplies by a number."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 3.0


@pytest.mark.regression("q-norm")
@pytest.mark.parametrize("normed", ["q_norm", "k_norm"])
@torch.no_grad()
def test_each_norm_applies_alone(normed: str) -> None:
    torch.manual_seed(0)
    with_norm = attention(**{normed: Scaled()})
    plain = attention()
    plain.load_state_dict(with_norm.state_dict())
    getattr(plain, f"{normed[0]}_proj").weight.mul_(3)
    mask = torch.full((6, 6), torch.finfo(torch.float32).min).triu(1)[None, None]
    x = torch.randn(2, 6, 32)
    assert torch.allclose(with_norm(x, attention_mask=mask)[0], plain(x, attention_mask=mask)[0], atol=1e-6)
