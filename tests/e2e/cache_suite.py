"""Generation tests of paddings, inputs and caches; generation_suite.py has the modes of `generate`."""

from __future__ import annotations

from typing import Any

import torch
from generation_base import CACHE, EVERYTHING, NEW, PROMPT, TOLERANCE, GenerationTests, largest_difference
from transformers import DynamicCache, StaticCache


class CacheTests(GenerationTests):
    """Tests of the inputs of `generate`, and of the state between its steps."""

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
        """Right padding is hidden from real tokens; generation continues after it, with and without a cache."""
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
            options = {
                "num_beams": beams,
                "max_new_tokens": NEW,
                "return_dict_in_generate": True,
                "output_scores": True,
            }
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
            self.assert_same(model.generate(ids, max_new_tokens=NEW, logits_to_keep=0, **more), self.greedy(model, ids))

    def test_custom_4d_attention_mask(self: Any) -> None:
        """Two continuations of one prompt in one row with a mask [1, 1, T, T] equal separate runs."""
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
                static.logits[0],
                dynamic.logits[0],
                **(TOLERANCE if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.05}),
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
