"""Generation tests for any causal language model: every mode of `generate`, compared with each other.

transformers has such tests too, but its source distribution does not contain them. These are written for this project;
model_suite.py runs them for transformers' Llama and for exported models.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any

import torch
from cache_suite import CacheTests
from generation_base import CACHE, EVERYTHING, NEW, PROMPT, TOLERANCE, largest_difference
from torch import Tensor
from transformers import DynamicCache
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput


class GenerationTesterMixin(CacheTests):
    """Modes of generation, on top of the tests of inputs and caches."""

    # Greedy, sampling, beams

    def test_greedy_generate(self: Any) -> None:
        model, ids = self.generator(), self.prompt()
        self.assert_same(model.generate(ids, max_new_tokens=NEW), self.greedy(model, ids))
        self.assert_same(model.generate(ids, max_new_tokens=NEW, use_cache=False), self.greedy(model, ids))

    def test_greedy_generate_dict_outputs(self: Any) -> None:
        model, ids = self.generator(), self.prompt()
        for cached in (True, False):
            output = model.generate(ids, max_new_tokens=NEW, use_cache=cached, **EVERYTHING)
            self.assertIsInstance(output, GenerateDecoderOnlyOutput)
            self.assert_complete(output, model, ids, rows=2, cached=cached)

    def test_sample_generate(self: Any) -> None:
        model, ids = self.generator(), self.prompt()
        drawn = []
        for cached in (True, False):
            torch.manual_seed(3)
            drawn.append(model.generate(ids, do_sample=True, top_k=0, max_new_tokens=NEW, use_cache=cached))
        self.assert_same(*drawn)
        torch.manual_seed(4)
        output = model.generate(ids, do_sample=True, num_return_sequences=2, max_new_tokens=NEW, **EVERYTHING)
        self.assert_complete(output, model, ids, rows=4, cached=True)

    def test_beam_search_generate(self: Any) -> None:
        model, ids = self.generator(), self.prompt()
        found = [model.generate(ids, num_beams=3, max_new_tokens=NEW, use_cache=cached) for cached in (True, False)]
        self.assert_same(*found)
        scores = [self.log_likelihood(model, text) for text in (found[0], self.greedy(model, ids))]
        self.assertTrue((scores[0] >= scores[1] - 1e-3).all(), scores)

    @torch.no_grad()
    def log_likelihood(self, model: Any, ids: Tensor) -> Tensor:
        """Return the log-likelihood of everything after the prompt: [B]."""
        chances = model(ids).logits[:, PROMPT - 1 : -1].log_softmax(-1)
        return chances.gather(-1, ids[:, PROMPT:, None]).sum((1, 2))

    def test_beam_search_generate_dict_outputs(self: Any) -> None:
        model, ids = self.generator(), self.prompt()
        for cached in (True, False):
            output = model.generate(
                ids, num_beams=2, num_return_sequences=2, max_new_tokens=NEW, use_cache=cached, **EVERYTHING
            )
            self.assertIsInstance(output, GenerateBeamDecoderOnlyOutput)
            self.assert_complete(output, model, ids, rows=4, cached=cached)

    def test_beam_sample_generate(self: Any) -> None:
        model, ids = self.generator(), self.prompt()
        drawn = []
        for cached in (True, False):
            torch.manual_seed(3)
            options = {"do_sample": True, "num_beams": 2, "max_new_tokens": NEW, "use_cache": cached}
            drawn.append(model.generate(ids, **options))
        self.assert_same(*drawn)

    def test_generate_without_input_ids(self: Any) -> None:
        model = self.generator()
        self.assert_same(model.generate(max_new_tokens=NEW), self.greedy(model, torch.tensor([[1]])))

    def test_generate_stops_at_the_end_token(self: Any) -> None:
        model, ids = self.generator(), self.prompt(1)
        text = self.greedy(model, ids)[0].tolist()
        end = next(i for i in range(PROMPT, len(text)) if text[i] not in text[PROMPT:i])
        stopped = model.generate(ids, max_new_tokens=NEW, eos_token_id=text[end])
        self.assertEqual(stopped[0].tolist(), text[: end + 1])

    # Drafts

    def test_assisted_decoding_matches_greedy_search(self: Any) -> None:
        model, ids = self.generator(), self.prompt(1)
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        greedy = model.generate(ids, max_new_tokens=2 * NEW, **EVERYTHING)
        for assistant in (model, other, self.generator(num_hidden_layers=1)):
            assistant.generation_config.num_assistant_tokens = 2
            assistant.generation_config.num_assistant_tokens_schedule = "constant"
            assisted = model.generate(ids, max_new_tokens=2 * NEW, assistant_model=assistant, **EVERYTHING)
            self.assert_same(assisted.sequences, greedy.sequences)
            for first, second in zip(assisted.logits, greedy.logits, strict=True):
                torch.testing.assert_close(first, second, **TOLERANCE)

    def test_assisted_decoding_sample(self: Any) -> None:
        model, ids = self.generator(), self.prompt(1)
        options = {"assistant_model": copy.deepcopy(model), "do_sample": True, "max_new_tokens": NEW}
        self.assertEqual(model.generate(ids, **options).shape, (1, PROMPT + NEW))

    def test_prompt_lookup_decoding_matches_greedy_search(self: Any) -> None:
        model = self.generator()
        ids = self.prompt(1, 3).repeat(1, 4)
        greedy = model.generate(ids, max_new_tokens=3 * NEW)
        for tokens in (2, 4):
            self.assert_same(model.generate(ids, max_new_tokens=3 * NEW, prompt_lookup_num_tokens=tokens), greedy)

    def test_early_exit_matches_greedy_search(self: Any) -> None:
        model, ids = self.generator(num_hidden_layers=3), self.prompt(1)
        greedy = model.generate(ids, max_new_tokens=2 * NEW)
        for layers in (1, 2):
            self.assert_same(model.generate(ids, max_new_tokens=2 * NEW, assistant_early_exit=layers), greedy)
        self.assertEqual(model.config.num_hidden_layers, 3)

    def test_lowered_num_hidden_layers(self: Any) -> None:
        model, ids = self.generator(num_hidden_layers=3), self.prompt()
        model.config.num_hidden_layers = 1
        shallow = model.generate(ids, max_new_tokens=NEW)
        for implementation in ("dynamic", "static"):
            self.assert_same(
                model.generate(ids, max_new_tokens=NEW, cache_implementation=implementation, disable_compile=True),
                shallow,
            )
        del model.base_model.layers[1:]
        self.assert_same(model.generate(ids, max_new_tokens=NEW), shallow)

    def test_changed_sliding_window(self: Any) -> None:
        """Masks, caches and layers agree on a window that is set after construction."""
        ids = self.prompt(1, 12)
        for before, after in ((None, 4), (8, 4), (8, None)):
            model = self.generator(sliding_window=before)
            if not hasattr(model.config, "sliding_window") or hasattr(model.config, "layer_types"):
                self.skipTest("the configuration has no sliding window for all layers")
            model.config.sliding_window = after
            texts = [model.generate(ids, max_new_tokens=NEW, use_cache=cached) for cached in (True, False)]
            self.assert_same(*texts)
            fresh = self.generator(sliding_window=after)
            with torch.no_grad():
                torch.testing.assert_close(model(ids).logits, fresh(ids).logits, **TOLERANCE)

    # What generate() relies on

    def test_inherits_generation_mixin(self: Any) -> None:
        for model_class in self.all_generative_model_classes:
            self.assertIn("GenerationMixin", {base.__name__ for base in model_class.__mro__})

    def test_second_post_init(self: Any) -> None:
        model = self.generator()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.post_init()
        for name, tensor in model.state_dict().items():
            self.assertTrue(torch.equal(tensor, before[name]), name)

    def test_keyword_arguments_are_declared(self: Any) -> None:
        for model_class in self.all_model_classes:
            annotation = inspect.signature(model_class.forward).parameters["kwargs"].annotation
            self.assertIn("output_attentions", annotation.__args__[0].__annotations__)

    def test_old_cache_name(self: Any) -> None:
        """The old name of the cache warns if this release has a new one, and has the same effect."""
        model, ids = self.generator(), self.prompt()
        for part in (model, model.base_model):
            outputs = []
            for name in {"past_key_values", CACHE}:
                cache = DynamicCache(config=model.config)
                with warnings.catch_warnings(record=True) as caught, torch.no_grad():
                    warnings.simplefilter("always")
                    part(ids, **{name: cache})
                    outputs.append(part(ids[:, :1], **{name: cache})[0])
                warned = any("`past_key_values` is deprecated" in str(warning.message) for warning in caught)
                self.assertEqual(warned, name != CACHE)
                self.assertEqual(cache.get_seq_length(), PROMPT + 1)
            self.assertEqual(largest_difference(outputs[0], outputs[-1]), 0)
