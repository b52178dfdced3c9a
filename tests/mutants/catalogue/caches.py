"""Mistakes in caches and packing."""

from __future__ import annotations

from .mutant import Mutant

CACHES = [
    Mutant(
        "cache-not-read",
        "llama",
        "self_attention.py",
        "key_BGSK, value_BGSK = fill_cache(",
        "key_BGSK, value_BGSK = key_BGTK, value_BGTK\n        fill_cache(",
        "keys are written to the cache, and attention reads those of this call only",
    ),
    Mutant(
        "cache-not-returned",
        "mistral",
        "language_model.py",
        "**{CACHE: outputs.get(CACHE)},",
        "**{CACHE: None},",
        "the cache is missing from the outputs: generation reads the last token only",
    ),
    Mutant(
        "cache-under-the-old-name-only",
        "single_head",
        "caches.py",
        "return past_key_values if past_key_values is not None else cache",
        "return past_key_values",
        "the argument name of transformers 5.24 is ignored: generation reads the last token only, without an error",
    ),
    Mutant(
        "use-cache-ignored",
        "qwen3",
        "decoder.py",
        "if use_cache and cache is None:",
        "if cache is None:",
        "use_cache=False is accepted and a cache is returned (seen in practice)",
    ),
    Mutant(
        "layers-share-a-cache",
        "llama",
        "modeling_llama.py",
        "layer_idx=i,",
        "layer_idx=0,",
        "all layers write into the first layer of the cache",
    ),
    Mutant(
        "cached-keys-not-rotated",
        "mistral",
        "attention.py",
        "query_BHTK, key_BGTK = rotate_all((query_BHTK, key_BGTK), *position_embeddings)",
        "query_BHTK, rotated = rotate_all((query_BHTK, key_BGTK), *position_embeddings)\n"
        "            key_BGTK = rotated if cache is None else key_BGTK",
        "keys are cached before RoPE and never rotated later",
    ),
    Mutant(
        "alibi-keys-forget-the-window",
        "deepone",
        "positions.py",
        "key = torch.arange(key_length, device=device) + key_offset",
        "key = torch.arange(key_length, device=device)",
        "keys of a sliding cache are counted from 0, although the oldest have been dropped",
    ),
    Mutant(
        "alibi-queries-forget-the-cache",
        "single_head",
        "positions.py",
        "query = torch.arange(length, device=device) + past_length",
        "query = torch.arange(length, device=device)",
        "the distance of a new token to cached ones is counted from 0",
    ),
]

PACKING = [
    Mutant(
        "packing-ignored-with-cache",
        "llama",
        "masks.py",
        "if position_ids is not None and not ready:",
        "if position_ids is not None and cache is None and not ready:",
        "documents attend to each other if there is a cache (as in transformers)",
    ),
    Mutant(
        "packing-ignored-with-mask",
        "mistral",
        "masks.py",
        "if position_ids is not None and not ready:",
        "if position_ids is not None and attention_mask is None:",
        "documents attend to each other if there is an attention mask (as in transformers)",
    ),
    Mutant(
        "packing-only-in-training",
        "qwen3",
        "decoder.py",
        "position_ids=position_ids,\n                sliding_window=window,",
        "position_ids=position_ids if self.training else None,\n                sliding_window=window,",
        "in evaluation, packed documents attend to each other",
    ),
    Mutant(
        "packing-leaks-one-token",
        "causal_lm",
        "masks.py",
        "return kv_idx >= starts[batch_idx, q_idx - past_length]",
        "return kv_idx + 1 >= starts[batch_idx, q_idx - past_length]",
        "a document attends to the last token of the one before it",
    ),
    Mutant(
        "packing-of-first-row",
        "deepone",
        "masks.py",
        "return kv_idx >= starts[batch_idx, q_idx - past_length]",
        "return kv_idx >= starts[0 * batch_idx, q_idx - past_length]",
        "the documents of the first row are used for the whole batch",
    ),
    Mutant(
        "packing-hides-itself",
        "single_head",
        "masks.py",
        "return kv_idx >= starts[batch_idx, q_idx - past_length]",
        "return kv_idx >= starts[batch_idx, q_idx - past_length] + (q_idx > starts[batch_idx, q_idx - past_length])",
        "the first token of a document is hidden from its later tokens",
    ),
]
