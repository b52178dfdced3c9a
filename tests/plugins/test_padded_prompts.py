"""Positions of padded prompts are not packed documents; with ALiBi, four-dimensional masks determine distances."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers import LlamaForCausalLM as NativeLlama

from forgather_core.parts.documents import document_starts

from .cases import ATTENDING, ATTENTION, EVERYTHING_SEEN, SLOPES, empty_cache, in_chunks, made
from .tiny import TOLERANCE, config_of, difference, tokens

MASKS = {
    "right": [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0]],
    "holes": [[1, 1, 0, 0, 1, 1, 1], [1, 0, 1, 1, 0, 1, 1]],
    "left": [[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]],
    "mixed": [[0, 1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]],
}
ALIBI_ALL_SEEN = [case for case in SLOPES if case in EVERYTHING_SEEN]


def logits_of(model: Any, ids: Tensor, mask: Tensor, how: str, **more: Any) -> Tensor:
    """Return the logits [B, steps, V] of generate."""
    more |= {"use_cache": False} if how == "no cache" else {"cache_implementation": how}
    resolved = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "output_logits": True}
    found = model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **resolved, **more)
    return torch.stack(found.logits, dim=1)


@pytest.mark.few(12, slow=30)
@pytest.mark.regression("R2")
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("case", ATTENDING)
def test_padded_prompts_give_the_same_logits_with_every_cache(case: str, padding: str, attention: str) -> None:
    mask = torch.tensor(MASKS[padding])
    ids = tokens(2, 7).masked_fill(mask == 0, 1)
    model = made(case, attention=attention).double()
    expected = logits_of(model, ids, mask, "no cache")
    for how in ("dynamic", "static"):
        assert difference(logits_of(model, ids, mask, how), expected) <= TOLERANCE
    ids[:, 0] = torch.where(mask[:, 0] == 1, 5, ids[:, 0])
    ids[:, 2] = torch.where(mask[:, 2] == 1, 6, ids[:, 2])
    if case in EVERYTHING_SEEN:
        assert difference(logits_of(model, ids, mask, "no cache"), expected) > 1e-3  # the prompt has an influence


@pytest.mark.regression("R2")
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("fill", [None, 0, 1])
@pytest.mark.parametrize("how", ["dynamic", "static", "no cache"])
def test_padded_prompts_give_the_logits_of_transformers_llama(padding: str, how: str, fill: int | None) -> None:
    model = made("llama").double()
    content = config_of("llama").to_dict() | {"model_type": "llama"}
    native = NativeLlama(LlamaConfig(**content)).double().eval()
    native.load_state_dict(model.state_dict())
    mask = torch.tensor(MASKS[padding])
    ids = tokens(2, 7).masked_fill(mask == 0, 1)
    more = {} if fill is None else {"position_ids": (mask.cumsum(-1) - 1).masked_fill(mask == 0, fill)}
    expected = logits_of(native, ids, mask, how, **more)
    assert difference(logits_of(model, ids, mask, how, **more), expected) <= TOLERANCE


@pytest.mark.few(6, slow=60)
@pytest.mark.regression("R2")
@pytest.mark.parametrize("size", [2, 3, 4, 6])
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("case", ATTENDING)
def test_a_padded_prompt_may_be_read_in_chunks(case: str, padding: str, size: int) -> None:
    mask = torch.tensor(MASKS[padding])
    ids = tokens(2, 7).masked_fill(mask == 0, 1)
    model = made(case).double()
    expected = logits_of(model, ids, mask, "no cache")
    assert difference(logits_of(model, ids, mask, "dynamic", prefill_chunk_size=size), expected) <= TOLERANCE


@pytest.mark.few(4)
@pytest.mark.regression("R2")
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("case", ATTENDING)
def test_beams_of_padded_prompts_are_the_same_with_a_cache(case: str, padding: str) -> None:
    mask = torch.tensor(MASKS[padding])
    ids = tokens(2, 7).masked_fill(mask == 0, 1)
    model, resolved = made(case).double(), {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2}
    cached, plain = (model.generate(ids, attention_mask=mask, use_cache=use, **resolved) for use in (True, False))
    assert torch.equal(cached, plain)


@pytest.mark.regression("R2")
@pytest.mark.parametrize("cut", [0, 7, 8, 9])
def test_positions_that_continue_from_padding_begin_no_document(cut: int) -> None:
    positions = torch.tensor([[0, 1, 2, 0, 0, 0, 0, 1, 2, 3]])
    real = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 1, 1, 1]], dtype=torch.bool)
    assert document_starts(positions[:, cut:], cut, real)[0, -1] == 0


@pytest.mark.parametrize("cut", [0, 5, 6, 7, 8])
def test_a_document_begins_after_padding(cut: int) -> None:
    positions = torch.tensor([[0, 1, 2, 0, 0, 0, 1, 2, 3]])
    real = torch.tensor([[1, 1, 1, 0, 0, 1, 1, 1, 1]], dtype=torch.bool)
    assert document_starts(positions[:, cut:], cut, real)[0, -1] == 5


def ready(visible: Tensor, form: str) -> Tensor:
    """Return a mask [B, 1, T, S], bool or additive."""
    if form == "bool":
        return visible
    hidden = -torch.inf if form == "inf" else torch.finfo(torch.float32).min
    return torch.zeros(visible.shape).masked_fill(~visible, hidden)


@pytest.mark.regression("R3")
@pytest.mark.parametrize("cached", [False, True], ids=["at once", "cached prefix"])
@pytest.mark.parametrize(("attention", "form"), [("sdpa", "bool"), ("sdpa", "inf"), ("eager", "min")])
@pytest.mark.parametrize("case", EVERYTHING_SEEN)
@torch.no_grad()
def test_continuations_of_one_prefix_share_a_row(case: str, attention: str, form: str, cached: bool) -> None:
    model, prefix, one, other = (
        made(case, attention=attention),
        tokens(1, 6),
        tokens(1, 4, seed=2),
        tokens(1, 5, seed=3),
    )
    row = torch.cat((prefix, one, other), dim=1)
    positions = torch.tensor([[*range(10), *range(6, 11)]])
    visible = torch.ones(15, 15, dtype=torch.bool).tril()
    visible[10:, 6:10] = False
    mask = ready(visible[None, None], form)
    if cached:
        cache = empty_cache("dynamic", model)
        model(prefix, past_key_values=cache, use_cache=True)
        logits = [
            model(row[:, 6:], attention_mask=mask[:, :, 6:], position_ids=positions[:, 6:], past_key_values=cache)
        ]
        after = logits[0].logits
    else:
        after = model(row, attention_mask=mask, position_ids=positions).logits[:, 6:]
    alone = [model(torch.cat((prefix, piece), dim=1)).logits[:, 6:] for piece in (one, other)]
    assert difference(after, torch.cat(alone, dim=1)) <= TOLERANCE


@pytest.mark.regression("R3")
@pytest.mark.parametrize("given", [False, True], ids=["no positions", "positions"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("sizes", [[14], [8, 1, 5], [6, 8]], ids=str)
@pytest.mark.parametrize("case", ALIBI_ALL_SEEN)
@torch.no_grad()
def test_a_hole_in_a_ready_mask_moves_nothing_apart(case: str, sizes: list[int], kind: str, given: bool) -> None:
    model, ids, real = made(case), tokens(1, 14), torch.ones(14, dtype=torch.bool)
    real[3:5] = real[9] = False
    expected = model(ids[:, real]).logits
    cache, at, logits = empty_cache(kind, model, 20), 0, []
    width = 20 if kind == "static" else None
    for size in sizes:
        end = at + size
        visible = torch.ones(14, 20, dtype=torch.bool).tril()
        visible[:, :14] &= real
        mask = visible[None, None, at:end, : width or end]
        more = {"position_ids": (real.cumsum(0) - 1)[None, at:end]} if given else {}
        logits.append(model(ids[:, at:end], attention_mask=mask, past_key_values=cache, **more).logits)
        at = end
    assert difference(torch.cat(logits, dim=1)[:, real], expected) <= TOLERANCE


@pytest.mark.regression("R3")
@pytest.mark.parametrize("case", ALIBI_ALL_SEEN)
@torch.no_grad()
def test_a_ready_mask_equals_the_mask_it_is_made_of(case: str) -> None:
    model, mask = made(case), torch.tensor(MASKS["mixed"])
    ids = tokens(2, 7)
    visible = torch.ones(7, 7, dtype=torch.bool).tril() & mask.bool()[:, None, None, :]
    whole = in_chunks(model, ids, empty_cache("dynamic", model), [7], mask)
    assert difference(model(ids, attention_mask=visible).logits[mask.bool()], whole[mask.bool()]) <= TOLERANCE
