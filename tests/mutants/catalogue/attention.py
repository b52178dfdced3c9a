"""Mistakes in masks, sliding windows and attention."""

from __future__ import annotations

from .mutant import WINDOW, Mutant

MASKS = [
    Mutant(
        "mask-dropped",
        "llama",
        "masks.py",
        "and_mask_function=overlay,",
        "or_mask_function=lambda batch, head, q, kv: kv >= 0,",
        "every token attends to the whole row: the causal mask is built and then disabled by an or",
    ),
    Mutant(
        "mask-includes-next-token",
        "deepone",
        "masks.py",
        "and_mask_function=overlay,",
        "or_mask_function=lambda batch, head, q, kv: kv == q + 1,",
        "off by one: tril(diagonal=1) lets each token attend to the one that it predicts",
    ),
    Mutant(
        "mask-hides-itself",
        "qwen3",
        "masks.py",
        "and_mask_function=overlay,",
        "and_mask_function=lambda batch, head, q, kv: (kv < q) | (q == 0),",
        "off by one in the other direction: tril(diagonal=-1), a token does not attend to itself",
    ),
    Mutant(
        "mask-only-in-eager",
        "causal_lm",
        "self_attention.py",
        "is_causal = True",
        "is_causal = False",
        "is_causal left at False: sdpa, which gets no mask for plain rows, attends to later tokens",
    ),
    Mutant(
        "mask-not-in-eager",
        "mistral",
        "self_attention.py",
        "if attention_mask is not None:",
        "if attention_mask is not None and module.training:",
        "the reference implementation masks in training only",
    ),
    Mutant(
        "alibi-without-causal-mask",
        "single_head",
        "alibi.py",
        "bias = bias.masked_fill(distance > 0, least)",
        "pass",
        "sdpa gets a bias, so that it is no longer causal by itself, and the mask is not added to the bias",
    ),
    Mutant(
        "clamp-after-mask",
        "single_head",
        "self_attention.py",
        ".softmax(-1).to(",
        ".softmax(-1).clamp(min=1e-10).to(",
        "weights are clamped after masking, so that 1e-10 of every later token leaks (seen in practice)",
    ),
    Mutant(
        "mask-is-minus-ten",
        "llama",
        "self_attention.py",
        "scores_BHTS = scores_BHTS + attention_mask",
        "scores_BHTS = scores_BHTS + attention_mask.clamp(min=-10.0)",
        "a small number replaces minus infinity, as GPT-2's -1e4 in float16",
    ),
]

WINDOWS = [
    Mutant(
        "window-ignored",
        "mistral",
        "decoder.py",
        "sliding_window=window,",
        "sliding_window=None,",
        "the window is read under another name and has no effect in eager and sdpa (seen in practice)",
    ),
    Mutant(
        "window-option-dead",
        "llama",
        "modeling_llama.py",
        "sliding_window=c.sliding_window,",
        "sliding_window=None,",
        "the option is accepted and has no effect",
        WINDOW,
    ),
    Mutant(
        "window-one-more",
        "mistral",
        "masks.py",
        "and_mask_function=overlay,",
        "and_mask_function=overlay,\n"
        "        or_mask_function=lambda batch, head, q, kv: kv == q - config.sliding_window,",
        "off by one: a query attends to one key more than the window, as if it did not count itself",
    ),
    Mutant(
        "window-one-less",
        "llama",
        "masks.py",
        "    create = create_causal_mask if sliding_window is None",
        "    if sliding_window is not None and overlay is None:\n"
        "        overlay = lambda batch, head, q, kv: kv > q - sliding_window + 1\n"
        "    create = create_causal_mask if sliding_window is None",
        "off by one in the other direction, in every implementation and every cache",
        WINDOW,
    ),
    Mutant(
        "window-ignored-with-cache",
        "mistral",
        "decoder.py",
        "sliding_window=window,",
        "sliding_window=window if cache is None or cache.get_seq_length() == 0 else None,",
        "chunks after the first are masked without a window",
    ),
    Mutant(
        "window-of-first-layer-for-all",
        "qwen3",
        "decoder.py",
        "mask, more = masks[window]",
        "mask, more = masks[windows[0]]",
        "one mask for all layers, although only some have a window",
        WINDOW | {"max_window_layers": 1},
    ),
    Mutant(
        "max-window-layers-dead",
        "qwen3",
        "modeling_qwen3.py",
        "sliding_window=c.windows()[i],",
        "sliding_window=c.sliding_window,",
        "all layers have the window, although layer_types of the configuration names only some",
        WINDOW | {"max_window_layers": 2},
    ),
]

ATTENTION = [
    Mutant(
        "kv-heads-repeated-in-the-wrong-order",
        "qwen3",
        "self_attention.py",
        "key_BHSK = key_BGSK.repeat_interleave(module.num_key_value_groups, dim=1)",
        "key_BHSK = key_BGSK.repeat(1, module.num_key_value_groups, 1, 1)",
        "repeat instead of repeat_interleave: heads share the keys of another group",
    ),
    Mutant(
        "kv-heads-interleaved",
        "qwen3",
        "attention.py",
        "query_BHTK, key_BGTK = query_BTHK.transpose(1, 2), key_BTGK.transpose(1, 2)",
        "query_BHTK, key_BGTK = query_BTHK.transpose(1, 2), key_BTGK.transpose(1, 2)\n"
        "        query_BHTK = query_BHTK.unflatten(1, (-1, self.num_key_value_groups)).transpose(1, 2).flatten(1, 2)",
        "the same in every implementation: query head i uses key head i modulo G",
    ),
    Mutant(
        "attention-not-scaled",
        "deepone",
        "self_attention.py",
        "self.scaling = head_dim**-0.5",
        "self.scaling = 1.0",
        "scores are not divided by sqrt(head_dim)",
    ),
    Mutant(
        "attention-scaled-by-hidden-size",
        "llama",
        "modeling_llama.py",
        "            for i in range(c.num_hidden_layers)\n        )\n",
        "            for i in range(c.num_hidden_layers)\n        )\n"
        "        for layer in self.layers:\n            layer.self_attn.scaling = c.hidden_size**-0.5\n",
        "scores are divided by sqrt(hidden_size)",
    ),
    Mutant(
        "attention-scaled-twice",
        "mistral",
        "attention.py",
        "query_BTHK = self.q_proj(hidden_states).view(heads)",
        "query_BTHK = self.q_proj(hidden_states).view(heads) * self.scaling",
        "queries are scaled, and the attention function scales the scores again",
    ),
    Mutant(
        "attention-scaled-twice-in-eager",
        "causal_lm",
        "self_attention.py",
        "key_BHSK.transpose(-1, -2) * scaling",
        "key_BHSK.transpose(-1, -2) * scaling * scaling",
        "only one implementation scales twice",
    ),
    Mutant(
        "qk-norms-swapped",
        "qwen3",
        "attention.py",
        "query_BTHK = self.q_norm(query_BTHK)",
        "query_BTHK = self.k_norm(query_BTHK)",
        "queries are normalized with the scales of keys",
    ),
    Mutant(
        "qk-norms-missing",
        "qwen3",
        "attention.py",
        "if self.q_norm is not None:",
        "if self.q_norm is None and self.k_norm is not None:",
        "the norm of queries is created, saved, and never applied",
    ),
    Mutant(
        "softmax-in-low-precision",
        "causal_lm",
        "self_attention.py",
        "scores_BHTS.softmax(-1)",
        "scores_BHTS.to(query_BHTK.dtype).sub(scores_BHTS.max()).exp().div("
        "scores_BHTS.sub(scores_BHTS.max()).exp().sum(-1, keepdim=True))",
        "a hand-written softmax with the maximum of the whole batch: rows and later tokens leak through rounding",
    ),
    Mutant(
        "values-viewed-not-transposed",
        "llama",
        "attention.py",
        "self.v_proj(hidden_states).view(heads).transpose(1, 2)",
        "self.v_proj(hidden_states).view(heads[0], -1, heads[1], self.head_dim)",
        "view instead of transpose: values of other positions and heads, in the right shape",
    ),
]
