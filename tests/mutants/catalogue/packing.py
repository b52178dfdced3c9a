"""Mistakes in packed documents."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        name="packing-ignored-with-cache",
        definition="llama",
        file="layer_inputs.py",
        old="if self.given_positions is None or complete",
        new="if self.given_positions is None or self.cache is not None or complete",
        mistake="documents attend to each other if there is a cache (as in transformers)",
        check="packing-isolation",
    ),
    Mutant(
        name="packing-ignored-with-mask",
        definition="mistral",
        file="layer_inputs.py",
        old="if self.given_positions is None or complete",
        new="if self.given_positions is None or given is not None",
        mistake="documents attend to each other if there is an attention mask (as in transformers)",
        check="packing-isolation",
    ),
    Mutant(
        name="packing-only-in-training",
        definition="qwen3",
        file="decoder.py",
        old="position_ids=position_ids,\n            cache=filled,",
        new="position_ids=position_ids if self.training else None,\n            cache=filled,",
        mistake="in evaluation, packed documents attend to each other",
        check="packing-isolation",
    ),
    Mutant(
        name="packing-leaks-one-token",
        definition="causal_lm",
        file="documents.py",
        old="return kv_idx >= self.starts[batch_idx, q_idx - self.past_length]",
        new="return kv_idx + 1 >= self.starts[batch_idx, q_idx - self.past_length]",
        mistake="a document attends to the last token of the one before it",
        check="packing-isolation",
    ),
    Mutant(
        name="packing-of-first-row",
        definition="deepone",
        file="documents.py",
        old="return kv_idx >= self.starts[batch_idx, q_idx - self.past_length]",
        new="return kv_idx >= self.starts[0 * batch_idx, q_idx - self.past_length]",
        mistake="the documents of the first row are used for the whole batch",
        check="packing-isolation",
    ),
    Mutant(
        name="packing-forgets-a-break-at-the-end",
        definition="llama",
        file="documents.py",
        old="return torch.diff(position_ids, dim=-1, prepend=position_ids[:, :1] - 1) != 1",
        new="breaks = torch.diff(position_ids, dim=-1, prepend=position_ids[:, :1] - 1) != 1\n"
        "        return breaks & (step < step.shape[-1] - 1)",
        mistake="a document of one token at the end of a row attends to the document before",
        check="packing-isolation",
        beyond_calls=True,
    ),
    Mutant(
        name="packing-hides-itself",
        definition="single_head",
        file="documents.py",
        old="return kv_idx >= self.starts[batch_idx, q_idx - self.past_length]",
        new="start = self.starts[batch_idx, q_idx - self.past_length]; return kv_idx >= start + (q_idx > start)",
        mistake="the first token of a document is hidden from its later tokens",
        check="packing-isolation",
    ),
]
