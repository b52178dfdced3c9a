"""Continuous batching: `generate_batch()` gives each request the tokens that the model predicts for it alone.

The tokens of all requests are in one row, with positions that restart, and their keys and values in pages of one cache.
A long prompt is read in several passes, beside the next tokens of other requests. The expected tokens are those of full
forward passes over each request, as in `generation`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from packaging.version import Version

from ..definitions.check import DoesNotApply, Measured, check
from ..errors import first_line
from .shared.cached_forward import takes_cache
from .shared.greedy import NEW_TOKENS, first_difference, greedy_text, model_without_eos
from .shared.implementations import implementations
from .shared.model_under_test import ModelUnderTest

PROMPTS = (9, 6, 1, 14)  # lengths; together they are more than the tokens of a pass
_PASS = 16  # tokens
_PAGE = 4  # tokens
_PAGES = 64
_NOT_SUPPORTED = "transformers' continuous batching does not support this model"
_RELEASE = "5.20"  # earlier releases have other names of implementations, and errors with sliding windows


@check(
    "continuous-batching",
    cause="attention between requests, positions that ignore position_ids, or keys that do not go through the cache",
)
@torch.no_grad()
def continuous_batching(subject: ModelUnderTest) -> Iterator[Measured]:
    """generate_batch() gives each request the tokens that it has alone, with the keys of all requests in pages."""
    if Version(transformers.__version__) < Version(_RELEASE):
        raise DoesNotApply(f"it requires transformers {_RELEASE}")
    if not (subject.made_by_forgather or takes_cache(subject.on_meta())):
        raise DoesNotApply("the model has no cache argument")
    prompts = [subject.tokens(1, length, seed=length)[0].tolist() for length in PROMPTS]
    for attention in implementations(subject):
        model = model_without_eos(subject, attention)
        texts = [greedy_text(model, torch.tensor([prompt])) for prompt in prompts]
        try:
            results = _in_one_batch(model, prompts)
        except Exception as raised:
            if subject.made_by_forgather:
                raise
            raise DoesNotApply(f"{_NOT_SUPPORTED}: {first_line(raised)}") from None
        for prompt, text, (found, error) in zip(prompts, texts, results, strict=True):
            what = f"{attention}, a prompt of {len(prompt)}: {len(text)} new tokens"
            if error is not None and not subject.made_by_forgather:
                raise DoesNotApply(f"{_NOT_SUPPORTED}: {error}")
            if error is not None:
                yield Measured(what, 1.0, 0.0, failure=f"{what}: {error}")
            elif text:  # otherwise rounding decides on the first token
                first = first_difference(found, text)
                yield Measured(what, float(first is not None), 0.0, f"new token {first}")


def _in_one_batch(model: Any, prompts: Sequence[list[int]]) -> list[tuple[list[int], str | None]]:
    """Return the new tokens of each prompt, or its error, from one call of `generate_batch`."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    names = inspect.signature(ContinuousBatchingConfig).parameters
    size = {"page_size" if "page_size" in names else "block_size": _PAGE}
    config = model.generation_config
    config.max_new_tokens, config.eos_token_id = NEW_TOKENS, -1  # without end of text
    logger = logging.getLogger("ContinuousBatchingLogger")  # it logs the traceback of each request that fails
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        results = model.generate_batch(
            inputs=list(prompts),
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(**size, num_blocks=_PAGES, max_batch_tokens=_PASS),
            progress_bar=False,
        )
    finally:
        logger.setLevel(level)
    in_order = sorted(results.values(), key=lambda result: int(result.request_id.rpartition("_")[2]))
    return [(result.generated_tokens, result.error) for result in in_order]
