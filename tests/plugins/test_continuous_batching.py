"""Continuous batching (`generate_batch`): the tokens of all requests in one row, their keys and values in pages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import GenerationConfig

from .tiny import CASES, tiny, tokens

LENGTHS = (3, 9, 5, 14, 1)
SERVED = ["llama", *(case for case in CASES if case != "llama" and "tied" not in case)]
OLD = Version(transformers.__version__) < Version("5.20")  # the implementations have names of their own there


def in_one_batch(model: Any, prompts: list[list[int]], config: GenerationConfig, attention: str) -> list[list[int]]:
    """Generate for all prompts together, and return the new tokens in the order of the prompts."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    batching = ContinuousBatchingConfig(block_size=4, num_blocks=64, max_batch_tokens=16)
    model.set_attn_implementation(f"paged|{attention}" if OLD else attention)
    results = model.generate_batch(
        inputs=prompts, generation_config=config, continuous_batching_config=batching, progress_bar=False
    )
    model.set_attn_implementation(attention)
    in_order = sorted(results.values(), key=lambda result: int(result.request_id.rpartition("_")[2]))
    assert [result.error for result in in_order] == [None] * len(prompts)
    return [result.generated_tokens for result in in_order]


@pytest.mark.few(1, slow=4)
@pytest.mark.regression("E1")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", SERVED)
@torch.no_grad()
def test_each_request_gets_the_tokens_that_generate_gives_it_alone(case: str, attention: str) -> None:
    if OLD and ("window" in case or case == "mistral"):
        pytest.skip("transformers' own windowed models go wrong in continuous batching of this release")
    definition, options = CASES[case]
    model = tiny(definition, attention=attention, **options)
    prompts = [tokens(1, length, seed=length)[0].tolist() for length in LENGTHS]
    config = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=96, pad_token_id=1)
    model.generation_config = config
    alone = [model.generate(torch.tensor([prompt]))[0, len(prompt) :].tolist() for prompt in prompts]
    assert in_one_batch(model, prompts, config, attention) == alone
