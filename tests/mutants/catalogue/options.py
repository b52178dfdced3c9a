"""Mistakes in compilation, state and options."""

from __future__ import annotations

from .mutant import GROUPED, Mutant

RUNTIME = [
    Mutant(
        "graph-break",
        "llama",
        "decoder.py",
        "        for layer, window in zip(layers, windows, strict=True):\n",
        "        if bool(hidden_states.isnan().any()):\n"
        '            raise ValueError("not a number")\n'
        "        for layer, window in zip(layers, windows, strict=True):\n",
        "reading a value in forward breaks the compiled graph and synchronizes with the device",
    ),
    Mutant(
        "graph-break-by-print",
        "deepone",
        "norms.py",
        "        x = hidden_states.float()\n",
        "        x = hidden_states.float()\n        if x.mean().item() > 1e30:\n            return hidden_states\n",
        "an .item() in each norm",
    ),
    Mutant(
        "state-kept-between-calls",
        "single_head",
        "decoder.py",
        "        hidden_states = inputs_embeds\n",
        '        inputs_embeds = inputs_embeds + 1e-3 * getattr(self, "_last", 0.0)\n'
        "        self._last = float(inputs_embeds.mean())\n        hidden_states = inputs_embeds\n",
        "a call depends on the previous one, as with RoPE variants that store the longest length",
    ),
    Mutant(
        "random-in-eval",
        "qwen3",
        "decoder.py",
        "        hidden_states = inputs_embeds\n",
        "        inputs_embeds = inputs_embeds + 1e-4 * inputs_embeds.new_empty(inputs_embeds.shape).normal_()\n"
        "        hidden_states = inputs_embeds\n",
        "noise for training (NEFTune) that is not switched off in evaluation",
    ),
]

OPTIONS = [
    Mutant(
        "num-key-value-heads-dead",
        "llama",
        "modeling_llama.py",
        "num_key_value_heads=c.num_key_value_heads,",
        "num_key_value_heads=c.num_attention_heads,",
        "num_key_value_heads is accepted and every head has its own keys",
        GROUPED,
    ),
    Mutant(
        "num-key-value-heads-dead-by-default",
        "deepone",
        "modeling_deepone.py",
        "num_key_value_heads=c.num_key_value_heads,",
        "num_key_value_heads=c.num_attention_heads,",
        "the same, with a preset that does not use it",
    ),
    Mutant(
        "head-dim-dead",
        "qwen3",
        "option_groups.py",
        '"head_dim": self.head_dim or self.hidden_size // self.num_attention_heads,',
        '"head_dim": self.hidden_size // self.num_attention_heads,',
        "head_dim is accepted and still derived from the hidden size",
        {"head_dim": 32},
    ),
    Mutant(
        "layer-norm-eps-dead",
        "causal_lm",
        "modeling_causal_lm.py",
        "eps=c.layer_norm_eps",
        "eps=1e-5",
        "layer_norm_eps is accepted and has no effect",
        count=2,
    ),
    Mutant(
        "activation-dropout-dead",
        "causal_lm",
        "feed_forward.py",
        "self.down_proj(self.drop(self.act_fn(self.up_proj(hidden_states))))",
        "self.down_proj(self.act_fn(self.up_proj(hidden_states)))",
        "activation_dropout creates a module that is never called",
    ),
    Mutant(
        "tie-word-embeddings-dead",
        "llama",
        "language_model.py",
        '_tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}',
        "_tied_weights_keys: ClassVar[dict[str, str]] = {}",
        "tie_word_embeddings is accepted and ties nothing, in a model that is not tied by default",
    ),
    Mutant(
        "layers-one-less",
        "mistral",
        "modeling_mistral.py",
        "for i in range(c.num_hidden_layers)",
        "for i in range(min(c.num_hidden_layers, 4))",
        "num_hidden_layers has an undocumented limit",
    ),
]
