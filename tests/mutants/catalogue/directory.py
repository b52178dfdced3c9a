"""Mistakes in what a call leaves behind, what it costs, and what the files of a directory promise."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        name="norm-keeps-its-input",
        definition="llama",
        file="norms.py",
        old="        return self.weight * x.to(hidden_states.dtype)",
        new="        self.latest = x\n        return self.weight * x.to(hidden_states.dtype)",
        mistake="each norm keeps its latest input for debugging: the memory of a call is not released",
        check="call-state",
    ),
    Mutant(
        name="call-seeds-torch",
        definition="mistral",
        file="norms.py",
        old="        x = hidden_states.float()",
        new="        torch.manual_seed(0)\n        x = hidden_states.float()",
        mistake="a seed that was set for a debugging session: every call restarts the random generator",
        check="call-state",
    ),
    Mutant(
        name="cache-of-repeated-heads",
        definition="llama",
        file="caches.py",
        old="    return cache.update(key, value, layer_idx, kwargs=kwargs)",
        new=(
            "    found = cache.update(key.repeat(1, 2, 1, 1), value.repeat(1, 2, 1, 1), layer_idx, kwargs=kwargs)\n"
            "    return tuple(one[:, : key.shape[1]] for one in found)"
        ),
        mistake="keys and values are cached once for each query head, not for each key/value head",
        check="cache-size",
    ),
    Mutant(
        name="head-of-all-tokens",
        definition="qwen3",
        file="language_model.py",
        old="logits = self.lm_head(hidden_states[:, keep, :])",
        new="logits = self.lm_head(hidden_states)[:, keep, :]",
        mistake="the head is applied to all tokens, and the logits of the last are selected: memory of long prompts",
        check="attention-cost",
    ),
    Mutant(
        name="dropout-twice-the-rate",
        definition="causal_lm",
        file="blocks.py",
        old="self.drop = nn.Dropout(dropout) if dropout else unchanged",
        new="self.drop = nn.Dropout(2 * dropout) if dropout else unchanged",
        mistake="the probability is doubled",
        check="dropout",
        count=2,
    ),
    Mutant(
        name="dropout-of-whole-heads",
        definition="causal_lm",
        file="self_attention.py",
        old="    weights_BHTS = nn.functional.dropout(weights_BHTS, dropout, module.training)",
        new="    weights_BHTS = nn.functional.dropout2d(weights_BHTS, dropout, module.training)",
        mistake="dropout of whole heads in place of single attention weights",
        check="dropout",
    ),
    Mutant(
        name="persistent-frequencies",
        definition="llama",
        file="rope.py",
        old='self.register_buffer("inv_freq", inv_freq, persistent=False)',
        new='self.register_buffer("inv_freq", inv_freq)',
        mistake="the frequencies of RoPE are saved: loading them in bfloat16 rounds them",
        check="state-dict",
    ),
    Mutant(
        name="epsilon-of-the-class",
        definition="llama",
        file="decoder_config.py",
        old="        content = super().to_dict()\n",
        new='        content = super().to_dict()\n        content.pop("rms_norm_eps", None)\n',
        mistake="a field is not saved, and loading takes its default",
        check="config-fields",
    ),
    Mutant(
        name="eos-of-another-tokenizer",
        definition="qwen3",
        file="generation_config.json",
        old='"eos_token_id": 2',
        new='"eos_token_id": 7',
        mistake="generation_config.json was copied from a model with another tokenizer: generate() does not stop",
        check="tokenizer",
    ),
    Mutant(
        name="import-of-a-missing-package",
        definition="deepone",
        file="language_model.py",
        old="            loss = linear_cross_entropy(",
        new="            import apex_fused_kernels\n\n            loss = linear_cross_entropy(",
        mistake="a kernel of a package that users do not have, imported where only training reaches it",
        check="imports",
    ),
    Mutant(
        name="output-projection-split-by-rows",
        definition="llama",
        file="parallel_plans.py",
        old='    "layers.*.self_attn.o_proj": "rowwise",',
        new='    "layers.*.self_attn.o_proj": "colwise",',
        mistake="the output projection is split like the input projections: tensor parallelism fails or sums nothing",
        check="parallel-plans",
    ),
]
