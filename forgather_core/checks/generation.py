"""Generation: `generate()` says what the model itself says, token for token.

The greedy text of each row is made by hand: the row alone, all of it run anew for each token, without cache and
padding. `generate()` must say the same of the whole batch, padded on the left. Where the two likeliest tokens are
closer than rounding errors, either may be said, and no more is compared. Beam search must score its texts as full runs
do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..definitions.check import Measured, check
from .attentions import implementations
from .padding import padded
from .subject import ModelUnderTest
from .tolerance import rounding

NEW = 8  # more than a shrunk window
PROMPTS = (9, 6, 1)


@check("generation", cause="what generate() hands on from one step to the next: cache, mask, positions")
@torch.no_grad()
def generation(subject: ModelUnderTest) -> Iterator[Measured]:
    """Greedy generate() gives the likeliest token each time, beside padding, with a cache and without."""
    ids, mask = padded(subject, "left", PROMPTS)
    for attention in implementations(subject):
        model = _endless(subject, attention)
        texts = [_likeliest(model, row[real][None]) for row, real in zip(ids, mask.bool(), strict=True)]
        for use_cache in (True, False):
            given = {"input_ids": ids, "attention_mask": mask, "use_cache": use_cache}
            said = model.generate(**given, max_new_tokens=NEW)[:, ids.shape[1] :]
            for row, text in enumerate(texts):
                if not text:
                    continue  # rounding decides on the first token
                first = _first_difference(said[row].tolist(), text)
                what = f"{attention}, use_cache={use_cache}, row {row}, {PROMPTS[row]} tokens: {len(text)} are said"
                yield Measured(what, float(first is not None), 0.0, f"row {row}, new token {first}")
            beams = model.generate(
                **given, max_new_tokens=NEW, num_beams=2, return_dict_in_generate=True, output_scores=True
            )
            yield _score(model, beams, mask, f"{attention}, use_cache={use_cache}, two beams: their scores")


def _endless(subject: ModelUnderTest, attention: str) -> Any:
    """A model whose generation ends at no token, and does what is asked for and nothing else."""
    model = subject.model(attention=attention)
    pad = getattr(subject.text_config, "pad_token_id", None)
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=pad if isinstance(pad, int) else 0)
    return model


def _likeliest(model: Any, ids: Tensor) -> list[int]:
    """What greedy decoding adds to a row [1, T], up to where rounding may decide."""
    said: list[int] = []
    for _ in range(NEW):
        logits = model(ids, use_cache=False).logits[0, -1]
        first, second = logits.topk(2).values
        if first - second <= 2 * rounding(model) * logits.square().mean().sqrt():
            break
        said.append(int(logits.argmax()))
        ids = torch.cat((ids, logits.argmax()[None, None]), dim=1)
    return said


def _first_difference(found: list[int], expected: list[int]) -> int | None:
    if len(found) < len(expected):
        return len(found)
    return next((at for at, (one, other) in enumerate(zip(found, expected, strict=False)) if one != other), None)


def _score(model: Any, beams: Any, mask: Tensor, what: str) -> Measured:
    """The mean log-likelihood of each text, as beam search told it and as the rows have it alone."""
    scores, size = [], torch.ones(())
    for row, real in zip(beams.sequences, mask.bool(), strict=True):
        text = row[mask.shape[1] - int(real.sum()) :][None]
        logits = model(text, use_cache=False).logits[0, -NEW - 1 : -1]
        size = torch.maximum(size, logits.square().mean().sqrt())
        scores.append(logits.log_softmax(-1).gather(-1, text[0, -NEW:, None]).mean())
    error = (torch.stack(scores) - beams.sequences_scores).abs()
    # A logit and the normalizer of its softmax each err by the rounding of logits.
    return Measured(what, float(error.max() / size), 2 * rounding(model), f"row {int(error.argmax())}")
