"""Gradient checkpointing disables the cache only while gradients are recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from forgather_core.parts.caches import CACHE

from .cases import ATTENDING, ATTENTION, empty_cache, in_chunks, made
from .tiny import TOLERANCE, difference, tokens


def checkpointed(case: str, *, reentrant: bool = False, **options: Any) -> Any:
    model = made(case, **options).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    return model


@pytest.mark.few(12, slow=40)
@pytest.mark.regression("R1")
@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize("how", ["dynamic", "static", "no cache"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", ATTENDING)
def test_generate_in_training_mode_needs_no_other_result(case: str, attention: str, how: str, reentrant: bool) -> None:
    ids = tokens(2, 7)
    more = {"use_cache": False} if how == "no cache" else {"cache_implementation": how}
    resolved = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = made(case, attention=attention).train().generate(ids, **resolved, **more)
    model = checkpointed(case, attention=attention, reentrant=reentrant)
    assert torch.equal(model.generate(ids, **resolved, **more), expected)


@pytest.mark.regression("R1")
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("case", ["causal_lm", "deepone", "llama, window", "qwen3, half window"])
def test_a_given_cache_is_filled_without_gradients(case: str, kind: str, context: Any) -> None:
    ids = tokens(2, 12)
    with context():
        model = checkpointed(case)
        cache = empty_cache(kind, model)
        logits = in_chunks(model, ids, cache, [7, 1, 4])
        assert int(cache.get_seq_length()) == 12
        assert difference(logits, made(case)(ids, use_cache=False).logits) <= TOLERANCE
        assert model(ids[:, :1], past_key_values=cache, use_cache=True)[CACHE] is cache


@torch.no_grad()
def test_use_cache_of_the_configuration_counts() -> None:
    model = checkpointed("llama")
    model.config.use_cache = False
    assert model(tokens(1, 4)).get(CACHE) is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_training_uses_no_cache(reentrant: bool) -> None:
    model, ids = checkpointed("llama", reentrant=reentrant), tokens(1, 6)
    cache = empty_cache("dynamic", model)
    outputs = model(ids, past_key_values=cache, labels=ids)
    assert outputs.get(CACHE) is None
    assert cache.get_seq_length() == 0
    outputs.loss.backward()
    with torch.no_grad():
        model(ids, past_key_values=cache)
    with pytest.raises(ValueError, match="filled cache"):
        model(ids, past_key_values=cache)
