"""Mistakes in masks."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        name="mask-dropped",
        definition="llama",
        file="masks.py",
        old="and_mask_function=overlay,",
        new="or_mask_function=lambda batch, head, q, kv: kv >= 0,",
        mistake="every token attends to the whole row: the causal mask is built and then disabled by an or",
        check="causality",
    ),
    Mutant(
        name="mask-includes-next-token",
        definition="deepone",
        file="masks.py",
        old="and_mask_function=overlay,",
        new="or_mask_function=lambda batch, head, q, kv: kv == q + 1,",
        mistake="off by one: tril(diagonal=1) lets each token attend to the one that it predicts",
        check="causality",
    ),
    Mutant(
        name="mask-hides-itself",
        definition="qwen3",
        file="masks.py",
        old="and_mask_function=overlay,",
        new="and_mask_function=lambda batch, head, q, kv: (kv < q) | (q == 0),",
        mistake="off by one in the other direction: tril(diagonal=-1), a token does not attend to itself",
        check="reference-parity",
    ),
    Mutant(
        name="mask-only-in-eager",
        definition="causal_lm",
        file="self_attention.py",
        old="is_causal = True",
        new="is_causal = False",
        mistake="is_causal left at False: sdpa, which gets no mask for plain rows, attends to later tokens",
        check="causality",
    ),
    Mutant(
        name="mask-not-in-eager",
        definition="mistral",
        file="self_attention.py",
        old="if attention_mask is not None:",
        new="if attention_mask is not None and module.training:",
        mistake="the reference implementation masks in training only",
        check="causality",
    ),
    Mutant(
        name="alibi-without-causal-mask",
        definition="single_head",
        file="alibi.py",
        old="bias = bias.masked_fill(distance > 0, least)",
        new="pass",
        mistake="sdpa gets a bias, so that it is no longer causal by itself, and the mask is not added to the bias",
        check="causality",
    ),
    Mutant(
        name="clamp-after-mask",
        definition="single_head",
        file="self_attention.py",
        old=".softmax(-1).to(",
        new=".softmax(-1).clamp(min=1e-10).to(",
        mistake="weights are clamped after masking, so that 1e-10 of every later token leaks (seen in practice)",
        check="causality",
    ),
    Mutant(
        name="mask-is-minus-ten",
        definition="llama",
        file="self_attention.py",
        old="scores_BHTS = scores_BHTS + attention_mask",
        new="scores_BHTS = scores_BHTS + attention_mask.clamp(min=-10.0)",
        mistake="masked scores get a finite offset instead of minus infinity, as GPT-2's -1e4 in float16",
        check="causality",
    ),
    Mutant(
        name="mask-not-handed-on",
        definition="llama",
        file="masks.py",
        old="attention_mask=attention_mask,\n        **{CACHE: cache}",
        new="attention_mask=None,\n        **{CACHE: cache}",
        mistake="the padding mask is not passed to the function that builds the causal mask",
        check="padding",
    ),
]
