"""cache-size finds caches that hold too much, too little or another dtype, and passes correct models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config

from forgather_core.checks.cache_size import cache_size, cached_heads
from forgather_core.checks.try_check import FAILED, PASSED
from forgather_core.definitions.check import failure_text
from tests.support.settings import Resolve, small

from .planted import edited_row, gpt2_row

__all__ = ["small"]

UPDATE = "return cache.update(key, value, layer_idx, kwargs=kwargs)"
IN_FLOAT32 = """every = cache.update(key.float(), value.float(), layer_idx, kwargs=kwargs)
    return every[0].to(key.dtype), every[1].to(key.dtype)"""
REPEATED = """every = cache.update(
        key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), layer_idx, kwargs=kwargs
    )
    return every[0][:, ::2], every[1][:, ::2]"""
VIEW = """every = cache.update(key, value, layer_idx, kwargs=kwargs)
    layer = cache.layers[layer_idx]
    layer.keys = layer.keys.repeat(3, 1, 1, 1)[: len(layer.keys)]
    return every"""
DEFAULT = "cache = DynamicCache(config=self.config)"


@pytest.mark.parametrize("options", [{}, {"sliding_window": 4}])
def test_a_correct_model_passes(options: dict[str, Any], small: Resolve, tmp_path: Path) -> None:
    found = edited_row(cache_size, small, tmp_path, **options)
    assert found["result"] == PASSED, [one for one in found["measured"] if not one["holds"]]


def test_transformers_own_model_passes(tmp_path: Path) -> None:
    assert gpt2_row(cache_size, tmp_path)["result"] == PASSED


@pytest.mark.parametrize(
    ("edits", "options", "words"),
    [
        (
            [("decoder.py", DEFAULT, "cache = DynamicCache()")],
            {"sliding_window": 4},
            [
                "default cache, the text at once: after 20 tokens with a window of 4, "
                "expected keys of 3 tokens, got 20, at layer 0",
                "the default cache of the model holds",
            ],
        ),
        (
            [("decoder.py", "if use_cache and cache is None:", "if cache is None:"), ("caches.py", UPDATE, IN_FLOAT32)],
            {},
            [
                "use_cache=False returns a cache",
                "expected keys in torch.bfloat16, the dtype of the model, got torch.float32, at layer 0",
            ],
        ),
        (
            [("decoder.py", DEFAULT, "pass"), ("caches.py", UPDATE, REPEATED)],
            {},
            ["default cache, the text at once: use_cache=True returns no cache", "bytes for 20 tokens, got"],
        ),
        ([("caches.py", UPDATE, VIEW)], {}, ["it holds views of larger tensors: expected at most"]),
    ],
)
def test_mistakes_are_described(
    edits: list[tuple[str, str, str]], options: dict[str, Any], words: list[str], small: Resolve, tmp_path: Path
) -> None:
    found = edited_row(cache_size, small, tmp_path, *edits, **options)
    assert found["result"] == FAILED
    texts = [failure_text(one) for one in found["measured"] if not one["holds"]]
    for part in words:
        assert any(part in text for text in texts), texts


def test_heads_are_read_only_where_the_configuration_states_them() -> None:
    config = GPT2Config(n_embd=32, n_head=4)
    assert cached_heads(config) == 32
    config.num_key_value_heads, config.head_dim = 2, 16
    assert cached_heads(config) == 32
    config.kv_lora_rank = 8
    assert cached_heads(config) is None
