"""Generation with the token ids and settings of a directory: stop tokens, padding and sampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from ...definitions.check import Measured, expect
from ...tokenizers.chat_templates import templates_by_name, turn_ends
from .model_under_test import ModelUnderTest

BEFORE_EOS, NEW_TOKENS, PROMPT = 3, 8, 5


def token_ids(value: Any) -> list[int]:
    """Return token ids as a list; None and negative numbers mean that there is no token."""
    return [i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int) and i >= 0]


class _ForceEos:
    """Force a token in row 0 after BEFORE_EOS new tokens, and exclude it and all EOS tokens everywhere else."""

    def __init__(self, token: int, ends: list[int]) -> None:
        self.token, self.excluded = token, [token, *ends]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the changed scores [B, V]."""
        excluded = torch.tensor([token for token in self.excluded if token < scores.shape[-1]])
        scores = scores.index_fill(-1, excluded, -torch.inf)
        if input_ids.shape[1] == PROMPT + BEFORE_EOS:
            scores[0] = -torch.inf
            scores[0, self.token] = 0.0
        return scores


@torch.no_grad()
def check_generation(subject: ModelUnderTest, tokenizer: Any, generation: Any) -> Iterator[Measured]:
    """Check that `generate()` stops at EOS, fills rows with padding, and samples only if `do_sample` is true.

    Args:
        subject: The model under test.
        tokenizer: Its tokenizer.
        generation: Its generation config; None uses that of the model.
    """
    model = subject.randomized_model()
    if generation is not None:
        model.generation_config = generation
    ends = token_ids(model.generation_config.eos_token_id)
    names = dict.fromkeys(ends, "EOS of the generation config")
    if subject.made_by_forgather:
        names |= dict.fromkeys(turn_ends(tokenizer, templates_by_name(tokenizer.chat_template))[0], "the end of a turn")
    names |= dict.fromkeys(token_ids(tokenizer.eos_token_id), "EOS of the tokenizer")
    for token, name in names.items():
        yield from _check_end(subject, model, token, f"{name} ({token})", ends)
    if not model.generation_config.do_sample:
        found = list[Tensor]()
        for options in ({}, {}, {"do_sample": False}):
            torch.manual_seed(len(found))
            found.append(_generated(model, subject.tokens(2, PROMPT), **options))
        failure = "generate() samples, although do_sample is false in the generation config"
        greedy = all(torch.equal(found[0], one) for one in found[1:])
        yield expect("generate() without sampling returns the same text each time", greedy, failure=failure)


def _check_end(subject: ModelUnderTest, model: Any, token: int, name: str, ends: list[int]) -> Iterator[Measured]:
    """Check the output of `generate()` if a token is forced in row 0, and no row has EOS otherwise."""
    failure = f"generate() does not stop at {name}"
    if token >= model.config.get_text_config().vocab_size:  # the small copy does not have it
        yield expect(f"generate() stops at {name}", token in ends, failure=failure)
        return
    options: dict[str, Any] = {
        "logits_processor": LogitsProcessorList([_ForceEos(token, ends)]),
        "do_sample": False,
        "num_beams": 1,
        "num_return_sequences": 1,
    }
    alone = _generated(model, subject.tokens(1, PROMPT), **options)
    stops = alone.shape[1] == BEFORE_EOS + 1
    yield expect(f"generate() stops at {name}", stops, f"{alone.shape[1]} new tokens", failure=failure)
    if not stops:
        return
    text = _generated(model, subject.tokens(2, PROMPT), **options)
    new = text[0].tolist()
    pads = set(token_ids(model.generation_config.pad_token_id) or ends)  # transformers pads with EOS if necessary
    filled = new[BEFORE_EOS : BEFORE_EOS + 1] == [token] and set(new[BEFORE_EOS + 1 :]) <= pads
    failure = f"generate() does not fill a row with the padding token after {name}"
    yield expect(f"generate() fills a row after {name}", filled, f"row 0: {new}", failure=failure)
    failure = f"generate() ends row 1 before max_new_tokens={NEW_TOKENS}, without EOS"
    what = f"generate() continues without {name}"
    yield expect(what, len(new) == NEW_TOKENS, f"{len(new)} new tokens", failure=failure)


def _generated(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """Return the new tokens [B, at most NEW_TOKENS]."""
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, **options)
    sequences: Tensor = getattr(found, "sequences", found)
    return sequences[:, ids.shape[1] :]
