"""The building blocks of references, compared with functions of torch and transformers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from forgather_core import reference

ROWS, SIZE = 7, 6


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def agree(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["relu", "silu", "gelu"])
def test_activations(name: str) -> None:
    agree(getattr(reference, name)(drawn(50)), getattr(functional, name)(drawn(50)))


def test_norms() -> None:
    x, weight, bias = drawn(ROWS, SIZE), drawn(SIZE, seed=1), drawn(SIZE, seed=2)
    agree(reference.rms_norm(x, weight, 0.1), functional.rms_norm(x, (SIZE,), weight, 0.1))
    agree(reference.layer_norm(x, weight, bias, 0.1), functional.layer_norm(x, (SIZE,), weight, bias, 0.1))


def test_glu() -> None:
    x, gate, up, down = drawn(ROWS, SIZE), drawn(9, SIZE, seed=1), drawn(9, SIZE, seed=2), drawn(SIZE, 9, seed=3)
    expected = functional.linear(functional.silu(functional.linear(x, gate)) * functional.linear(x, up), down)
    agree(reference.glu(x, gate, up, down, reference.silu), expected)


@given(window=st.none() | st.integers(1, ROWS + 1), slope=st.floats(0, 2), seed=st.integers(0, 99))
def test_attention(window: int | None, slope: float, seed: int) -> None:
    queries, keys, values = drawn(3, ROWS, SIZE, seed=seed)
    distance = torch.arange(ROWS)[:, None] - torch.arange(ROWS)
    mask = torch.where((distance >= 0) & (distance < (window or ROWS)), -slope * distance.double(), -math.inf)
    expected = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    found = reference.attention(queries, keys, values, window=window, bias=lambda i, j: -slope * (i - j))
    agree(found, expected)


def test_attention_accepts_values_of_another_size() -> None:
    queries, keys = drawn(2, ROWS, SIZE)
    assert reference.attention(queries, keys, drawn(ROWS, 3)).shape == (ROWS, 3)


def test_heads_share_keys_and_values_in_groups_of_neighbours() -> None:
    queries, keys, values = drawn(4, ROWS, SIZE), drawn(2, ROWS, SIZE, seed=1), drawn(2, ROWS, SIZE, seed=2)
    distance = (torch.arange(ROWS)[:, None] - torch.arange(ROWS)).double()
    mask = torch.stack([torch.where(distance >= 0, -head * distance, -math.inf) for head in range(4)])
    expected = functional.scaled_dot_product_attention(
        queries[None], keys[None], values[None], attn_mask=mask[None], enable_gqa=True
    )
    found = reference.attention_of_heads(
        list(queries), list(keys), list(values), bias=lambda head, i, j: -head * float(i - j)
    )
    agree(found, expected[0].transpose(0, 1).flatten(1))


def test_scaled_rope_does_not_apply() -> None:
    assert reference.rope_theta(SimpleNamespace(rope_parameters={"rope_type": "default", "rope_theta": 50})) == 50.0
    with pytest.raises(reference.DoesNotApply, match="supports rope_type 'default' only"):
        reference.rope_theta(SimpleNamespace(rope_parameters={"rope_type": "linear", "rope_theta": 50, "factor": 2}))


def test_layer_weights_are_those_of_one_layer() -> None:
    weights = {f"model.layers.{n}.mlp.w": torch.tensor(float(n)) for n in (1, 10)} | {"model.norm.w": torch.ones(1)}
    assert reference.layer_weights(weights, 1) == {"mlp.w": torch.tensor(1.0)}


def test_apply_rope() -> None:
    config = LlamaConfig(
        hidden_size=SIZE, num_attention_heads=1, rope_parameters={"rope_type": "default", "rope_theta": 50.0}
    )
    x, at = drawn(ROWS, SIZE), torch.arange(ROWS)[None]
    cos, sin = LlamaRotaryEmbedding(config)(x, at)
    expected, _ = apply_rotary_pos_emb(x[None, None], x[None, None], cos, sin)
    torch.testing.assert_close(
        reference.apply_rope(x, 50.0), expected[0, 0], rtol=0, atol=1e-5
    )  # its angles are float32


def test_surprise() -> None:
    logits, ids = 40 * drawn(ROWS, 9), torch.tensor([3, 1, 8, 0, 0, 2, 5])
    agree(reference.surprise(logits, ids), functional.cross_entropy(logits[:-1], ids[1:], reduction="none"))


@pytest.mark.parametrize("cut", [1.0, 2.0, 3.0])
def test_truncated_normal_std(cut: float) -> None:
    x = torch.linspace(-cut, cut, 200_001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2)
    variance = torch.trapezoid(x.square() * density, x) / torch.trapezoid(density, x)
    assert reference.truncated_normal_std(0.5, cut) == pytest.approx(0.5 * variance.sqrt().item(), rel=1e-8)


def test_fan_in_uniform_std() -> None:
    weight = torch.nn.Linear(400, 300, dtype=torch.float64).weight
    assert weight.std().item() == pytest.approx(reference.fan_in_uniform_std(300, 400), rel=0.01)


@pytest.mark.parametrize(("tied", "embedding"), [(True, 1 / 8), (False, 1.0)])
def test_llama_init_std(tied: bool, embedding: float) -> None:
    rows = reference.llama_init_std(SimpleNamespace(hidden_size=64, num_hidden_layers=8, tie_word_embeddings=tied))
    assert rows["embed_tokens"] == embedding
    inner, outer = rows["(q|k|v|gate|up)_proj"], rows["(o|down)_proj"]
    assert isinstance(inner, float)
    assert outer == pytest.approx(inner / 4)


def test_copies_are_float64_and_trainable_on_request() -> None:
    weights = {"w": torch.ones(2, dtype=torch.bfloat16)}
    assert reference.float64(weights)["w"].dtype == torch.float64
    assert not reference.float64(weights)["w"].requires_grad
    assert reference.float64(weights, trainable=True)["w"].requires_grad
