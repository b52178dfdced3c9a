"""All modes of transformers' generate agree with the model run token by token without a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import DynamicCache

from .cases import ATTENDING, ATTENTION, EVERYTHING_SEEN, WINDOWED, made
from .tiny import TOLERANCE, difference, tiny, tokens

NEW = 10  # beyond the window of five, whatever the prompt
EXACTLY = {"max_new_tokens": NEW, "min_new_tokens": NEW}  # no row ends before another
GREEDY = EXACTLY | {"do_sample": False}
END = 2
# Earlier releases refuse to crop a full window, which assisted decoding does.
CROPS_WINDOWS = Version(transformers.__version__) >= Version("5.20")


def prompt(rows: int = 2, length: int = 7) -> dict[str, Tensor]:
    """Return token ids and a mask of ones."""
    ids = tokens(rows, length)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def likeliest(model: Any, ids: Tensor) -> Tensor:
    """Return the prompt and its greedy continuation, computed from the full text at each step."""
    for _ in range(NEW):
        logits = model(ids, use_cache=False).logits[:, -1]
        logits[:, END] = -torch.inf
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    return ids


@pytest.mark.few(40)
@pytest.mark.parametrize("how", ["dynamic", "static", "no cache"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("case", ATTENDING)
def test_greedy_is_the_likeliest_token_each_time(case: str, attention: str, how: str) -> None:
    model = made(case, attention=attention)
    more = {"use_cache": False} if how == "no cache" else {"cache_implementation": how}
    generated = model.generate(**prompt(), **GREEDY, **more)
    assert torch.equal(generated, likeliest(model, prompt()["input_ids"]))
    assert len({*generated.flatten().tolist()}) > 8  # it does not say one thing all the time


def test_a_static_cache_hands_in_a_mask_for_each_kind_of_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given, seen = made("qwen3, half window"), prompt(), []
    forward = model.model.forward

    def listening(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        seen.append(attention_mask)
        return forward(*args, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(model.model, "forward", listening)
    generated = model.generate(**given, **GREEDY, cache_implementation="static")
    assert len(seen) == NEW
    assert all(mask.keys() == {"full_attention", "sliding_attention"} for mask in seen)
    assert torch.equal(generated, likeliest(made("qwen3, half window"), given["input_ids"]))


@pytest.mark.parametrize("case", ATTENDING)
def test_generation_ends_at_the_end_token(case: str) -> None:
    model, given = made(case), prompt(1)
    said = model.generate(**given, **GREEDY)
    stop = said[0, 10].item()
    at = said[0, 7:].tolist().index(stop)
    ended = model.generate(**given, max_new_tokens=NEW, do_sample=False, eos_token_id=stop)
    assert torch.equal(ended, said[:, : 8 + at])


@pytest.mark.few(13)
@pytest.mark.parametrize("how", ["dynamic", "static"])
@pytest.mark.parametrize("case", ATTENDING)
def test_a_left_padded_batch_equals_each_row_alone(case: str, how: str) -> None:
    model, given = made(case), prompt(3, 9)
    for row, padding in enumerate((0, 3, 8)):
        given["input_ids"][row, :padding] = 1
        given["attention_mask"][row, :padding] = 0
    together = model.generate(**given, **GREEDY, cache_implementation=how)
    for row, padding in enumerate((0, 3, 8)):
        alone = likeliest(model, given["input_ids"][row : row + 1, padding:])
        assert together[row, padding:].tolist() == alone[0].tolist()


@pytest.mark.parametrize("case", ATTENDING)
def test_sampling_repeats_with_its_seed(case: str) -> None:
    def sampled(seed: int, **more: Any) -> Tensor:
        torch.manual_seed(seed)
        return model.generate(**prompt(), **EXACTLY, do_sample=True, top_k=0, temperature=0.7, **more)

    model = made(case)
    first = sampled(1)
    assert torch.equal(sampled(1), first)
    assert torch.equal(sampled(1, use_cache=False), first)
    assert not torch.equal(sampled(2), first)


@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_beams_have_the_scores_that_the_model_gives_them(case: str) -> None:
    model, given = made(case), prompt()
    found = model.generate(
        **given, **GREEDY, num_beams=4, num_return_sequences=2, return_dict_in_generate=True, output_scores=True
    )
    logits = model(found.sequences, use_cache=False).logits[:, 6:-1]
    # transformers forbids the end token in the scores, after the softmax
    chances = logits.log_softmax(-1).gather(-1, found.sequences[:, 7:, None]).squeeze(-1)
    assert difference(found.sequences_scores, chances.sum(-1) / NEW) <= TOLERANCE
    without = model.generate(**given, **GREEDY, num_beams=4, num_return_sequences=2, use_cache=False)
    assert torch.equal(found.sequences, without)


TAKES_BACK_BEYOND_A_WINDOW = hasattr(DynamicCache, "activate_past_recording")  # older releases cannot


@pytest.mark.few(5)
@pytest.mark.parametrize("case", ATTENDING if TAKES_BACK_BEYOND_A_WINDOW else EVERYTHING_SEEN)
def test_an_assistant_changes_nothing(case: str) -> None:
    model, given = made(case), prompt(1, 12)
    plain = model.generate(**given, **GREEDY)
    for assistant in (made("llama"), made("single_head"), made(case)):  # the last one guesses right
        assert torch.equal(model.generate(**given, **GREEDY, assistant_model=assistant), plain)


@pytest.mark.parametrize("how", ["dynamic", "static"])
@pytest.mark.parametrize("case", ATTENDING)
def test_embeddings_can_be_the_prompt(case: str, how: str) -> None:
    model, given = made(case), prompt()
    embeds = model.get_input_embeddings()(given["input_ids"]).detach()
    said = model.generate(
        inputs_embeds=embeds, attention_mask=given["attention_mask"], **GREEDY, cache_implementation=how
    )
    assert torch.equal(said, likeliest(model, given["input_ids"])[:, 7:])


@pytest.mark.parametrize("case", [case for case in WINDOWED if "half" not in case] + ["qwen3, half window"])
def test_a_conversation_goes_on_in_its_cache(case: str) -> None:
    model, given = made(case), prompt(1)
    cache = DynamicCache(config=model.config)
    said = model.generate(**given, **GREEDY, past_key_values=cache)
    more = torch.cat((said, tokens(1, 4, seed=5)), dim=1)
    went_on = model.generate(more, attention_mask=torch.ones_like(more), **GREEDY, past_key_values=cache)
    assert torch.equal(went_on, likeliest(model, more))


@pytest.mark.regression("E9")
@pytest.mark.few(6)
@pytest.mark.parametrize("case", ATTENDING)
@torch.no_grad()
def test_a_tool_may_lower_the_number_of_layers(case: str) -> None:
    model, given = made(case), prompt(1)
    whole = model.generate(**given, **GREEDY)
    if CROPS_WINDOWS or "window" not in case:
        assert torch.equal(model.generate(**given, **GREEDY, assistant_early_exit=1), whole)
    model.config.num_hidden_layers = 1
    logits = model(given["input_ids"]).logits
    lowered = [model.generate(**given, **GREEDY, use_cache=cached) for cached in (True, False)]
    del model.model.layers[1:]
    assert difference(model(given["input_ids"]).logits, logits) == 0
    assert all(torch.equal(text, model.generate(**given, **GREEDY)) for text in lowered)


@pytest.mark.regression("E9")
@pytest.mark.parametrize("window", [(None, 3), (5, 3), (5, None)], ids=str)
@torch.no_grad()
def test_a_tool_may_change_the_sliding_window(window: tuple[int | None, int | None]) -> None:
    model, given = tiny("llama", sliding_window=window[0]), prompt(1)
    model.config.sliding_window = window[1]
    changed = [model.generate(**given, **GREEDY, use_cache=cached) for cached in (True, False)]
    assert torch.equal(*changed)
    assert torch.equal(changed[0], tiny("llama", sliding_window=window[1]).generate(**given, **GREEDY))
