"""Rotary positions against the paper's equation in float64, and against transformers' own frequencies."""

from __future__ import annotations

import math

import pytest
import torch

from forgather_core.parts.attention import Attention
from forgather_core.parts.rope import Rope
from forgather_core.parts.rotation import rotate
from forgather_core.parts.self_attention import eager_attention


def test_rotation_is_the_papers_equation() -> None:
    """Return the angles of arXiv:2104.09864, eq. 15: pair i of a head of size K at position m has m * theta^(-2i/K)."""
    size, theta = 8, 500.0
    x = torch.randn(2, 3, 5, size)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 9, 100, 101, 5000]])
    rope = Rope(size, max_position_embeddings=64, rope_parameters={"rope_type": "default", "rope_theta": theta})
    turned = rotate(x, *rope(x, positions))
    for b in range(2):
        for t in range(5):
            for i in range(size // 2):
                angle = positions[b, t].item() * theta ** (-2 * i / size)
                one, two = x[b, :, t, i].double(), x[b, :, t, i + size // 2].double()
                a = one * math.cos(angle) - two * math.sin(angle)
                c = one * math.sin(angle) + two * math.cos(angle)
                tolerance = 1e-5 + 2e-7 * positions[b, t].item()  # of angles in float32
                torch.testing.assert_close(turned[b, :, t, i].double(), a, atol=tolerance, rtol=1e-4)
                torch.testing.assert_close(turned[b, :, t, i + size // 2].double(), c, atol=tolerance, rtol=1e-4)


@pytest.mark.parametrize("kind", ["yarn", "llama3"])
def test_a_missing_original_length_is_that_of_the_model(kind: str) -> None:
    parameters = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    whole = parameters | {"original_max_position_embeddings": 64}
    one, other = (Rope(8, max_position_embeddings=64, rope_parameters=given) for given in (parameters, whole))
    assert torch.equal(one.inv_freq, other.inv_freq)
    assert "original_max_position_embeddings" not in parameters


def test_angles_stay_float32_when_the_model_does_not() -> None:
    rope = Rope(64, max_position_embeddings=64, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    positions = torch.tensor([[4001]])
    cos, _ = rope(torch.empty(1, dtype=torch.bfloat16), positions)
    low, _ = rope.to(torch.bfloat16)(torch.empty(1, dtype=torch.bfloat16), positions)
    assert cos.dtype == torch.bfloat16
    assert torch.equal(cos, low)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_eager_attention_is_softmax_of_scores(groups: int) -> None:
    batch, length, heads, size = 2, 6, 4, 8
    module = Attention(32, layer_idx=0, num_heads=heads, num_key_value_heads=heads // groups, head_dim=size).eval()
    query = torch.randn(batch, heads, length, size)
    key, value = (torch.randn(batch, heads // groups, length, size) for _ in range(2))
    mask = torch.zeros(batch, 1, length, length).masked_fill(~torch.ones(length, length).tril().bool(), -1e30)
    result, weights = eager_attention(module, query, key, value, mask, scaling=module.scaling)
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                keys = key[b, h // groups, : t + 1].double()
                chances = (keys @ query[b, h, t].double() / math.sqrt(size)).softmax(0)
                expected = chances @ value[b, h // groups, : t + 1].double()
                torch.testing.assert_close(result[b, t, h].double(), expected, atol=1e-6, rtol=1e-5)
                torch.testing.assert_close(weights[b, h, t, : t + 1].double(), chances, atol=1e-6, rtol=1e-5)
    assert (weights.triu(1) == 0).all()
