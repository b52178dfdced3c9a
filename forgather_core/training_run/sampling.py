"""Generate continuations of texts with a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..training.random_state import kept_random_state


def continuations(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    seed: int = 0,
    temperature: float = 0.8,
    top_p: float = 0.95,
) -> list[dict[str, str]]:
    """Generate a continuation of each prompt in evaluation mode, then restore the mode of the model.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer.
        prompts: Token ids of each prompt.
        max_new_tokens: Maximum number of tokens of a continuation.
        seed: Seed of torch's generators; equal seeds give equal continuations on the same device.
        temperature: Divisor of the logits; 0 selects the most probable token.
        top_p: Sample from the smallest set of tokens with this total probability (arXiv:1904.09751).

    Returns:
        For each prompt a dict with the keys `prompt` and `continuation`, decoded texts without special tokens.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    samples = []
    try:
        with kept_random_state(), torch.no_grad():
            torch.manual_seed(seed)
            for prompt in prompts:
                ids = torch.tensor([list(prompt)], device=device)
                result = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=max_new_tokens,
                    pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
                    use_cache=True,
                    **(sampling if temperature > 0 else {"do_sample": False}),
                )
                new = result[0, ids.shape[1] :]
                samples.append({
                    "prompt": tokenizer.decode(ids[0], skip_special_tokens=True),
                    "continuation": tokenizer.decode(new, skip_special_tokens=True),
                })  # fmt: skip
    finally:
        model.train(training)
    return samples
