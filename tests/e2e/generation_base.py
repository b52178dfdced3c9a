"""Shared base of the generation tests in generation_suite.py and cache_suite.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput

PROMPT, NEW = 6, 5
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
EVERYTHING = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_hidden_states": True,
    "output_attentions": True,
}
CACHE = "cache" if "cache" in GenerateDecoderOnlyOutput.__dataclass_fields__ else "past_key_values"


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Return the largest absolute difference of two tensors."""
    return (first.float() - second.float()).abs().max().item()


class GenerationTests:
    """A test case must have `model_tester` and `all_model_classes`, as for transformers' ModelTesterMixin."""

    model_tester: Any
    all_model_classes: tuple[Any, ...]
    all_generative_model_classes: tuple[Any, ...]

    def generator(self, implementation: str = "eager", **changes: Any) -> Any:
        """Return a model with random weights that make its choices clear, and generation without an end token."""
        torch.manual_seed(0)
        config = self.model_tester.get_config(**changes)
        config._attn_implementation = implementation
        (model_class,) = self.all_generative_model_classes
        model = model_class(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
        model.tie_weights()
        model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, bos_token_id=1, eos_token_id=None)
        return model

    def prompt(self, batch: int = 2, length: int = PROMPT) -> Tensor:
        """Return random token ids, none of them special: [batch, length]."""
        generator = torch.Generator().manual_seed(batch * 100 + length)
        return torch.randint(3, self.model_tester.vocab_size, (batch, length), generator=generator)

    @torch.no_grad()
    def greedy(self, model: Any, ids: Tensor, new: int = NEW) -> Tensor:
        """Return ids and the most likely continuation, computed from the whole text for each token."""
        for _ in range(new):
            ids = torch.cat((ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)), dim=1)
        return ids

    def assert_same(self: Any, first: Tensor, second: Tensor, what: str = "") -> None:
        """Check that two tensors of token ids are equal."""
        self.assertEqual(first.tolist(), second.tolist(), what)

    def assert_complete(self: Any, output: Any, model: Any, ids: Tensor, *, rows: int, cached: bool) -> None:
        """Check the shapes of all outputs of `generate`; the last column belongs to its last step."""
        config, new = model.config, output.sequences.shape[1] - ids.shape[1]
        self.assertEqual(len(output.logits), len(output.scores))
        for scores in (*output.scores, *output.logits):
            self.assertEqual(scores.shape, (rows, config.vocab_size))
        self.assertEqual(len(output.hidden_states), len(output.scores))
        self.assertGreaterEqual(len(output.scores), new)
        for step, (states, weights) in enumerate(zip(output.hidden_states, output.attentions, strict=True)):
            length = ids.shape[1] + step
            queries = 1 if cached and step else length
            self.assertEqual(len(states), config.num_hidden_layers + 1)
            self.assertEqual(len(weights), config.num_hidden_layers)
            for state in states:
                self.assertEqual(state.shape, (rows, queries, config.hidden_size))
            for weight in weights:
                self.assertEqual(weight.shape, (rows, config.num_attention_heads, queries, length))
                self.assertLess(largest_difference(weight.sum(-1), torch.ones(rows, 1, 1)), 1e-5)
        self.assertEqual(getattr(output, CACHE) is not None, cached)
