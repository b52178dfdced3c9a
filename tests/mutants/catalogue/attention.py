"""Mistakes in attention."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        name="kv-heads-repeated-in-the-wrong-order",
        definition="qwen3",
        file="self_attention.py",
        old="key_BHSK = key_BGSK.repeat_interleave(module.num_key_value_groups, dim=1)",
        new="key_BHSK = key_BGSK.repeat(1, module.num_key_value_groups, 1, 1)",
        mistake="repeat instead of repeat_interleave: heads share the keys of another group",
        check="attention-backends",
    ),
    Mutant(
        name="kv-heads-interleaved",
        definition="qwen3",
        file="attention.py",
        old="query_BHTK, key_BGTK = query_BTHK.transpose(1, 2), key_BTGK.transpose(1, 2)",
        new="query_BHTK, key_BGTK = query_BTHK.transpose(1, 2), key_BTGK.transpose(1, 2)\n"
        "        query_BHTK = query_BHTK.unflatten(1, (-1, self.num_key_value_groups)).transpose(1, 2).flatten(1, 2)",
        mistake="query head i uses key head i modulo G, in every implementation",
        check="native-parity",
    ),
    Mutant(
        name="attention-not-scaled",
        definition="deepone",
        file="self_attention.py",
        old="self.scaling = head_dim**-0.5",
        new="self.scaling = 1.0",
        mistake="scores are not divided by sqrt(head_dim)",
        check="reference-parity",
    ),
    Mutant(
        name="attention-scaled-by-hidden-size",
        definition="llama",
        file="modeling_llama.py",
        old="            for i in range(c.num_hidden_layers)\n        )\n",
        new="            for i in range(c.num_hidden_layers)\n        )\n"
        "        for layer in self.layers:\n            layer.self_attn.scaling = c.hidden_size**-0.5\n",
        mistake="scores are divided by sqrt(hidden_size)",
        check="native-parity",
    ),
    Mutant(
        name="attention-scaled-twice",
        definition="mistral",
        file="attention.py",
        old="query_BTHK = self.q_proj(hidden_states).view(heads)",
        new="query_BTHK = self.q_proj(hidden_states).view(heads) * self.scaling",
        mistake="queries are scaled, and the attention function scales the scores again",
        check="native-parity",
    ),
    Mutant(
        name="attention-scaled-twice-in-eager",
        definition="causal_lm",
        file="self_attention.py",
        old="key_BHSK.transpose(-1, -2) * scaling",
        new="key_BHSK.transpose(-1, -2) * scaling * scaling",
        mistake="only one implementation scales twice",
        check="attention-backends",
    ),
    Mutant(
        name="qk-norms-swapped",
        definition="qwen3",
        file="attention.py",
        old="query_BTHK = self.q_norm(query_BTHK)",
        new="query_BTHK = self.k_norm(query_BTHK)",
        mistake="queries are normalized with the scales of keys",
        check="native-parity",
    ),
    Mutant(
        name="qk-norms-missing",
        definition="qwen3",
        file="attention.py",
        old="if self.q_norm is not None:",
        new="if self.q_norm is None and self.k_norm is not None:",
        mistake="the norm of queries is created, saved, and never applied",
        check="gradients",
        beyond_calls=True,
    ),
    Mutant(
        name="softmax-in-low-precision",
        definition="causal_lm",
        file="self_attention.py",
        old="scores_BHTS.softmax(-1)",
        new="scores_BHTS.to(query_BHTK.dtype).sub(scores_BHTS.max()).exp().div("
        "scores_BHTS.sub(scores_BHTS.max()).exp().sum(-1, keepdim=True))",
        mistake="a hand-written softmax with the maximum of the whole batch: rows and later tokens leak by rounding",
        check="causality",
    ),
    Mutant(
        name="values-viewed-not-transposed",
        definition="llama",
        file="attention.py",
        old="self.v_proj(hidden_states).view(heads).transpose(1, 2)",
        new="self.v_proj(hidden_states).view(heads[0], -1, heads[1], self.head_dim)",
        mistake="view instead of transpose: values of other positions and heads, in the right shape",
        check="causality",
    ),
    Mutant(
        name="attention-not-scaled-in-eager",
        definition="llama",
        file="self_attention.py",
        old="key_BHSK.transpose(-1, -2) * scaling",
        new="key_BHSK.transpose(-1, -2)",
        mistake="one of the implementations does not scale scores",
        check="attention-backends",
    ),
]
