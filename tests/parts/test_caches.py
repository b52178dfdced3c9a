"""Both names of the cache are accepted, and outputs use the name of the installed release."""

from __future__ import annotations

import warnings

import pytest
import torch
from transformers import DynamicCache

from forgather_core.parts.caches import CACHE, resolve_cache
from tests.plugins.tiny import TOLERANCE, difference, tiny, tokens


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
@torch.no_grad()
def test_models_go_on_from_a_cache_by_either_name(name: str) -> None:
    model, ids = tiny("llama"), tokens(1, 12)
    first = model(ids[:, :7], **{name: DynamicCache(config=model.config)})
    rest = model(ids[:, 7:], **{name: first[CACHE]}).logits
    assert difference(rest, model(ids).logits[:, 7:]) <= TOLERANCE
    headless = model.model(ids[:, :7], **{name: DynamicCache(config=model.config)})
    assert headless[CACHE].get_seq_length() == 7


def test_two_caches_are_refused() -> None:
    one, other = DynamicCache(), DynamicCache()
    assert resolve_cache(one, one) is one
    assert resolve_cache(None, one) is one
    assert resolve_cache(None, None) is None
    with pytest.raises(ValueError, match="two names of one argument"):
        resolve_cache(one, other)


@pytest.mark.parametrize("kind", ["greedy", "beams"])
@torch.no_grad()
def test_generate_uses_resolve_cache_and_loses_nothing(kind: str) -> None:
    model, ids = tiny("llama"), tokens(2, 9)
    more = {"num_beams": 3} if kind == "beams" else {}
    resolved = {"max_new_tokens": 10, "do_sample": False, "min_new_tokens": 10, **more}
    with_cache = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=True, **resolved)
    without = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **resolved)
    assert torch.equal(with_cache, without)


@pytest.mark.regression("P16")
@pytest.mark.parametrize("headless", [False, True], ids=["language model", "decoder"])
@torch.no_grad()
def test_the_old_name_warns_as_that_of_transformers_models(headless: bool) -> None:
    model, ids = tiny("llama"), tokens(1, 4)
    part = model.model if headless else model
    for name in {"past_key_values", CACHE}:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            part(ids, **{name: DynamicCache(config=model.config)})
        assert [w.category for w in caught] == ([] if name == CACHE else [FutureWarning])
        assert all(f"`{name}` is deprecated" in str(w.message) for w in caught)
