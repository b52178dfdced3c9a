"""Mistakes in key-value caches."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        name="cache-not-read",
        definition="llama",
        file="self_attention.py",
        old="key_BGSK, value_BGSK = fill_cache(",
        new="key_BGSK, value_BGSK = key_BGTK, value_BGTK\n        fill_cache(",
        mistake="keys are written to the cache, and attention reads those of this call only",
        check="kv-cache",
    ),
    Mutant(
        name="cache-not-returned",
        definition="mistral",
        file="language_model.py",
        old="fields = {CACHE: outputs.get(CACHE),",
        new="fields = {CACHE: None,",
        mistake="the cache is missing from the outputs: generation reads the last token only",
        check="kv-cache",
    ),
    Mutant(
        name="cache-under-the-old-name-only",
        definition="single_head",
        file="caches.py",
        old="return past_key_values if past_key_values is not None else cache",
        new="return past_key_values",
        mistake="transformers 5.24's name is ignored: no cache is read, and the mask counts its tokens",
        check="generation",
        error="Expected size for first two dimensions",
    ),
    Mutant(
        name="generation-keeps-the-last-token-only",
        definition="llama",
        file="language_model.py",
        old="    @takes_cache\n",
        new="    def prepare_inputs_for_generation(self, *args, **kwargs):\n"
        "        inputs = super().prepare_inputs_for_generation(*args, **kwargs)\n"
        '        last = {name: inputs[name][:, -1:] for name in ("input_ids", "position_ids")}\n'
        "        return {**inputs, **last}\n\n"
        "    @takes_cache\n",
        mistake="generate() passes the last token of the prompt, as in later steps, also if the cache is empty",
        check="generation",
        beyond_calls=True,
    ),
    Mutant(
        name="use-cache-ignored",
        definition="qwen3",
        file="decoder.py",
        old="if use_cache and cache is None:",
        new="if cache is None:",
        mistake="use_cache=False is accepted and a cache is returned (seen in practice)",
        check="kv-cache",
        beyond_calls=True,
    ),
    Mutant(
        name="layers-share-a-cache",
        definition="llama",
        file="modeling_llama.py",
        old="layer_idx=i,",
        new="layer_idx=0,",
        mistake="all layers write into the first layer of the cache",
        check="kv-cache",
    ),
    Mutant(
        name="cached-keys-not-rotated",
        definition="mistral",
        file="attention.py",
        old="query_BHTK, key_BGTK = rotate_all((query_BHTK, key_BGTK), *position_embeddings)",
        new="query_BHTK, rotated = rotate_all((query_BHTK, key_BGTK), *position_embeddings)\n"
        "            key_BGTK = rotated if cache is None else key_BGTK",
        mistake="keys are cached before RoPE and never rotated later",
        check="kv-cache",
    ),
    Mutant(
        name="alibi-keys-forget-the-window",
        definition="deepone",
        file="positions.py",
        old="key = torch.arange(key_length, device=device) + key_offset",
        new="key = torch.arange(key_length, device=device)",
        mistake="keys of a sliding cache are counted from 0, although the oldest have been dropped",
        check="generation",
    ),
    Mutant(
        name="alibi-queries-forget-the-cache",
        definition="single_head",
        file="positions.py",
        old="query = torch.arange(length, device=device) + past_length",
        new="query = torch.arange(length, device=device)",
        mistake="the distance of a new token to cached ones is counted from 0",
        check="kv-cache",
    ),
    Mutant(
        name="keys-cached-as-values",
        definition="llama",
        file="caches.py",
        old="cache.update(key, value, layer_idx",
        new="cache.update(key, key, layer_idx",
        mistake="the cache stores keys twice: calls without a cache are right",
        check="kv-cache",
    ),
]
