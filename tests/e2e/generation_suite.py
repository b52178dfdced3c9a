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
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, StaticCache
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput

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


class GenerationTesterMixin:
    """A test case must have `model_tester` and `all_model_classes`, as for transformers' ModelTesterMixin."""

    model_tester: Any
    all_generative_model_classes: tuple[Any, ...]

    # What all tests use

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
        """Check the shapes of everything that `generate` returned; the last column tells about its last step."""
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

    # Padding

    def test_left_padding_compatibility(self: Any) -> None:
        for implementation in ("eager", "sdpa"):
            model, ids = self.generator(implementation), self.prompt()
            padding = torch.zeros(2, 9, dtype=torch.long)
            padded = torch.cat((padding, ids), dim=1)
            mask = torch.cat((padding, torch.ones_like(ids)), dim=1)
            self.assert_same(
                model.generate(padded, attention_mask=mask, max_new_tokens=NEW)[:, 9:], self.greedy(model, ids)
            )
            position_ids = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
            with torch.no_grad():
                logits = model(padded, attention_mask=mask, position_ids=position_ids).logits[:, 9:]
                torch.testing.assert_close(logits, model(ids).logits, **TOLERANCE)

    def test_rows_of_several_lengths(self: Any) -> None:
        model = self.generator()
        rows = [self.prompt(1, length) for length in (3, 5, 8)]
        ids = torch.cat([torch.nn.functional.pad(row, (8 - row.shape[1], 0)) for row in rows])
        together = model.generate(ids, attention_mask=(ids != 0).long(), max_new_tokens=NEW)
        for row, text in zip(rows, together, strict=True):
            self.assert_same(text[None, 8 - row.shape[1] :], self.greedy(model, row))

    def test_right_padding(self: Any) -> None:
        """Padding on the right is seen by no real token; generation continues behind it, with and without a cache."""
        model, ids = self.generator(), self.prompt()
        padded = torch.nn.functional.pad(ids, (0, 3))
        mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 3))
        with torch.no_grad():
            logits = model(padded, attention_mask=mask).logits[:, :PROMPT]
            torch.testing.assert_close(logits, model(ids).logits, **TOLERANCE)
        found = [
            model.generate(padded, attention_mask=mask, max_new_tokens=NEW, use_cache=cached, **EVERYTHING)
            for cached in (True, False)
        ]
        self.assert_same(found[0].sequences, found[1].sequences)
        for first, second in zip(found[0].logits, found[1].logits, strict=True):
            torch.testing.assert_close(first, second, **TOLERANCE)

    # Inputs

    def test_generate_from_inputs_embeds(self: Any) -> None:
        for beams in (1, 2):
            model, ids = self.generator(), self.prompt()
            embeds = model.get_input_embeddings()(ids)
            options = {"num_beams": beams, "max_new_tokens": NEW, "return_dict_in_generate": True, "output_scores": True}
            by_ids = model.generate(ids, **options)
            both = model.generate(ids, inputs_embeds=embeds, **options)
            self.assert_same(both.sequences, by_ids.sequences)
            for first, second in zip(both.scores, by_ids.scores, strict=True):
                torch.testing.assert_close(first, second, **TOLERANCE)
            alone = model.generate(inputs_embeds=embeds, attention_mask=torch.ones_like(ids), **options)
            self.assert_same(alone.sequences, by_ids.sequences[:, PROMPT:])
            other = model.generate(ids, inputs_embeds=torch.rand_like(embeds), **options)
            self.assertGreater(largest_difference(other.scores[0], by_ids.scores[0]), 1e-3)

    def test_generate_from_inputs_embeds_with_static_cache(self: Any) -> None:
        model, ids = self.generator(), self.prompt()
        embeds = model.get_input_embeddings()(ids)
        options = {"max_new_tokens": NEW, "cache_implementation": "static", "disable_compile": True}
        self.assert_same(model.generate(inputs_embeds=embeds, **options), self.greedy(model, ids)[:, PROMPT:])

    def test_forward_with_logits_to_keep(self: Any) -> None:
        model, ids = self.generator(), self.prompt()
        with torch.no_grad():
            whole = model(ids).logits
            for keep in (1, 3):
                torch.testing.assert_close(model(ids, logits_to_keep=keep).logits, whole[:, -keep:], **TOLERANCE)
            kept = torch.tensor([0, 4])
            torch.testing.assert_close(model(ids, logits_to_keep=kept).logits, whole[:, kept], **TOLERANCE)

    def test_generate_methods_with_logits_to_keep(self: Any) -> None:
        model, ids = self.generator(), self.prompt(1)
        for more in ({}, {"assistant_model": model}):
            self.assert_same(
                model.generate(ids, max_new_tokens=NEW, logits_to_keep=0, **more), self.greedy(model, ids)
            )

    def test_custom_4d_attention_mask(self: Any) -> None:
        """Two continuations of one prompt in one row, by a mask [1, 1, T, T]: each as by itself."""
        for implementation, kind in (("eager", "additive"), ("sdpa", "additive"), ("sdpa", "bool")):
            model, ids = self.generator(implementation), self.prompt(1, 5)
            first, second = torch.cat((ids, self.prompt(1, 2)), 1), torch.cat((ids, self.prompt(1, 3)[:, 1:]), 1)
            row = torch.cat((first, second[:, 5:]), dim=1)
            seen = torch.ones(9, 9, dtype=torch.bool).tril()
            seen[7:, 5:7] = False
            least = torch.finfo(torch.float32).min
            mask = seen if kind == "bool" else torch.zeros(9, 9).masked_fill(~seen, least)
            positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 5, 6]])
            with torch.no_grad():
                logits = model(row, attention_mask=mask[None, None], position_ids=positions).logits
                torch.testing.assert_close(logits[:, :7], model(first).logits, **TOLERANCE)
                torch.testing.assert_close(logits[:, 7:], model(second).logits[:, 5:], **TOLERANCE)

    # Caches

    def test_cache_format(self: Any) -> None:
        model, ids = self.generator(), self.prompt()
        config = model.config
        with torch.no_grad():
            cache = getattr(model(ids, use_cache=True), CACHE)
        self.assertIsInstance(cache, DynamicCache)
        self.assertEqual(len(cache.layers), config.num_hidden_layers)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        for layer in cache.layers:
            for tensor in (layer.keys, layer.values):
                self.assertEqual(tensor.shape, (2, heads, PROMPT, head_dim))

    def test_generate_continue_from_past_key_values(self: Any) -> None:
        model, ids = self.generator(), self.prompt()
        padded = torch.nn.functional.pad(ids, (2, 0))
        for prompt in (ids, padded):
            mask = (prompt != 0).long()
            options = {"return_dict_in_generate": True, "attention_mask": mask}
            whole = model.generate(prompt, max_new_tokens=NEW, **options)
            part = model.generate(prompt, max_new_tokens=2, **options)
            longer = torch.nn.functional.pad(mask, (0, 2), value=1)
            rest = model.generate(
                part.sequences,
                max_new_tokens=NEW - 2,
                attention_mask=longer,
                return_dict_in_generate=True,
                **{CACHE: getattr(part, CACHE)},
            )
            self.assert_same(rest.sequences, whole.sequences)
            for first, second in zip(getattr(rest, CACHE).layers, getattr(whole, CACHE).layers, strict=True):
                torch.testing.assert_close(first.keys, second.keys, **TOLERANCE)
                torch.testing.assert_close(first.values, second.values, **TOLERANCE)

    def test_generate_continue_from_inputs_embeds(self: Any) -> None:
        model, ids = self.generator(), self.prompt()
        mask = torch.ones_like(ids)
        embeds = model.get_input_embeddings()(ids)
        whole = model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=NEW)
        options = {"attention_mask": mask, "return_dict_in_generate": True}
        part = model.generate(inputs_embeds=embeds, max_new_tokens=2, **options)
        more = torch.cat((embeds, model.get_input_embeddings()(part.sequences)), dim=1)
        rest = model.generate(
            inputs_embeds=more,
            attention_mask=torch.nn.functional.pad(mask, (0, 2), value=1),
            max_new_tokens=NEW - 2,
            **{CACHE: getattr(part, CACHE)},
        )
        self.assert_same(torch.cat((part.sequences, rest), dim=1), whole)

    def test_cache_rollback(self: Any) -> None:
        model, ids = self.generator(), self.prompt(length=9)
        with torch.no_grad():
            whole = model(ids).logits
            cache = getattr(model(torch.cat((ids[:, :6], self.prompt(length=3)), 1), use_cache=True), CACHE)
            cache.crop(-3)  # later releases take no other sign
            self.assertEqual(cache.get_seq_length(), 6)
            rest = model(ids[:, 6:], **{CACHE: cache}).logits
        torch.testing.assert_close(rest, whole[:, 6:], **TOLERANCE)

    def test_cache_rows_are_selected(self: Any) -> None:
        model, ids = self.generator(), self.prompt(3)
        with torch.no_grad():
            whole = model(ids).logits
            cache = getattr(model(ids[:, :4], use_cache=True), CACHE)
            cache.batch_select_indices(torch.tensor([2, 0]))
            rest = model(ids[[2, 0], 4:], **{CACHE: cache}).logits
        torch.testing.assert_close(rest, whole[[2, 0], 4:], **TOLERANCE)

    def test_generate_with_static_cache(self: Any) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            model, ids = self.generator().to(dtype), self.prompt()
            options = {"max_new_tokens": NEW, "return_dict_in_generate": True, "output_logits": True}
            dynamic = model.generate(ids, **options)
            static = model.generate(ids, cache_implementation="static", disable_compile=True, **options)
            self.assertIsInstance(getattr(static, CACHE), StaticCache)
            torch.testing.assert_close(
                static.logits[0], dynamic.logits[0], **(TOLERANCE if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.05})
            )
            if dtype == torch.float32:
                self.assert_same(static.sequences, dynamic.sequences)

    def test_generate_with_other_caches(self: Any) -> None:
        from transformers.utils import is_hqq_available, is_optimum_quanto_available

        model, ids = self.generator(), self.prompt()
        greedy = self.greedy(model, ids)
        self.assert_same(model.generate(ids, max_new_tokens=NEW, cache_implementation="dynamic"), greedy)
        for backend, present in (("hqq", is_hqq_available()), ("quanto", is_optimum_quanto_available())):
            if present:
                settings = {"backend": backend, "nbits": 4, "q_group_size": 16, "residual_length": 128}
                options = {"cache_implementation": "quantized", "cache_config": settings, "max_new_tokens": NEW}
                self.assert_same(model.generate(ids, **options)[:, : PROMPT + 1], greedy[:, : PROMPT + 1])

    def test_generate_compiled(self: Any) -> None:
        model, ids = self.generator("sdpa", num_hidden_layers=1), self.prompt()
        torch.compiler.reset()
        compiled = torch.compile(model.forward, backend="eager", fullgraph=True)
        eager = model.generate(ids, max_new_tokens=NEW)
        model.forward = compiled
        options = {"max_new_tokens": NEW, "cache_implementation": "static", "disable_compile": True}
        for _ in range(2):
            self.assert_same(model.generate(ids, **options), eager)

    def test_eager_matches_sdpa_generate(self: Any) -> None:
        found = [self.generator(name).generate(self.prompt(), max_new_tokens=2 * NEW) for name in ("eager", "sdpa")]
        self.assert_same(*found)

    def test_prefill_in_chunks(self: Any) -> None:
        model, ids = self.generator(), self.prompt()
        chunks = model.generate(ids, max_new_tokens=NEW, prefill_chunk_size=2)
        self.assert_same(chunks, self.greedy(model, ids))

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
        """The old name of the cache warns wherever this release has a new one, and means the same."""
        model, ids = self.generator(), self.prompt()
        for part in (model, model.base_model):
            outputs = []
            for name in {"past_key_values", CACHE}:
                cache = DynamicCache(config=model.config)
                with warnings.catch_warnings(record=True) as caught, torch.no_grad():
                    warnings.simplefilter("always")
                    part(ids, **{name: cache})
                    outputs.append(part(ids[:, :1], **{name: cache})[0])
                told = any("`past_key_values` is deprecated" in str(warning.message) for warning in caught)
                self.assertEqual(told, name != CACHE)
                self.assertEqual(cache.get_seq_length(), PROMPT + 1)
            self.assertEqual(largest_difference(outputs[0], outputs[-1]), 0)
