"""Generation: `generate()` returns the tokens that the model itself predicts.

The expected greedy text of each row is computed without `generate()`, by a full forward pass over the row for each
token, without cache and padding. `generate()` must return the same text for the batch, padded on the left. If the two
most probable tokens are closer than rounding errors, either is correct, and the comparison of that row ends. The scores
of beam search must equal those of full forward passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..definitions.check import Measured, check
from .shared.cached_forward import cache_argument, cache_in, takes_cache
from .shared.greedy import NEW_TOKENS, first_difference, greedy_text, model_without_eos
from .shared.implementations import implementations
from .shared.inputs import padded_rows
from .shared.model_under_test import ModelUnderTest
from .shared.tolerance import rounding

PROMPTS = (9, 6, 1)  # lengths
TURN = 4  # tokens


@check("generation", cause="a mistake in the cache, mask or positions that generate() passes from step to step")
@torch.no_grad()
def generation(subject: ModelUnderTest) -> Iterator[Measured]:
    """Greedy generate() returns the most probable token at each step, with padding, with and without a cache."""
    ids, mask = padded_rows(subject, "left", PROMPTS)
    for attention in implementations(subject):
        model = model_without_eos(subject, attention)
        texts = [greedy_text(model, row[real][None]) for row, real in zip(ids, mask.bool(), strict=True)]
        for use_cache in (True, False):
            arguments = {"input_ids": ids, "attention_mask": mask, "use_cache": use_cache}
            generated = model.generate(**arguments, max_new_tokens=NEW_TOKENS)[:, ids.shape[1] :]
            for row, text in enumerate(texts):
                if not text:
                    continue  # rounding decides on the first token
                first = first_difference(generated[row].tolist(), text)
                what = f"{attention}, use_cache={use_cache}, row {row}, prompt {PROMPTS[row]}: {len(text)} new tokens"
                yield Measured(what, float(first is not None), 0.0, f"row {row}, new token {first}")
            two = {"num_beams": 2, "return_dict_in_generate": True, "output_scores": True}
            try:
                beams = model.generate(**arguments, max_new_tokens=NEW_TOKENS, **two)
            except ValueError as error:
                if subject.made_by_forgather or "cannot use beam search" not in str(error):
                    raise
                continue  # generate() refuses beams with a cache that cannot be reordered
            yield _compare_scores(model, beams, mask, f"{attention}, use_cache={use_cache}, two beams: scores")
        if takes_cache(model):
            yield from _check_second_turn(subject, model, attention)


def _check_second_turn(subject: ModelUnderTest, model: Any, attention: str) -> Iterator[Measured]:
    """Check that generate() continues a cache with several new tokens, as in the second turn of a chat."""
    first, second = subject.tokens(1, PROMPTS[0]), subject.tokens(1, TURN, seed=1)
    ones = torch.ones_like(first)
    how = {"max_new_tokens": TURN, "return_dict_in_generate": True}
    made = model.generate(input_ids=first, attention_mask=ones, use_cache=True, **how)
    if (cache := cache_in(made)) is None:
        return  # the class returns none
    whole = torch.cat((made.sequences, second), dim=1)
    text = greedy_text(model, whole)
    more = {"attention_mask": torch.ones_like(whole), "use_cache": True, cache_argument(model): cache}
    generated = model.generate(input_ids=whole, **more, max_new_tokens=NEW_TOKENS)[0, whole.shape[1] :]
    what = f"{attention}, a second turn of {TURN} tokens with the cache of the first: {len(text)} new tokens"
    wrong = first_difference(generated.tolist(), text) if text else None
    yield Measured(what, float(wrong is not None), 0.0, f"new token {wrong}")


def _compare_scores(model: Any, beams: Any, mask: Tensor, what: str) -> Measured:
    """Compare the mean log-likelihood of each text from beam search with that of the row alone."""
    scores, size = [], torch.ones(())
    for row, real in zip(beams.sequences, mask.bool(), strict=True):
        text = row[mask.shape[1] - int(real.sum()) :][None]
        logits = model(text, use_cache=False).logits[0, -NEW_TOKENS - 1 : -1]
        size = torch.maximum(size, logits.square().mean().sqrt())
        scores.append(logits.log_softmax(-1).gather(-1, text[0, -NEW_TOKENS:, None]).mean())
    error = (torch.stack(scores) - beams.sequences_scores).abs()
    # A logit and the normalizer of its softmax both have the rounding error of logits.
    return Measured(what, float(error.max() / size), 2 * rounding(model), f"row {int(error.argmax())}")
