"""Mistakes in dropout."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        name="attention-dropout-in-eval",
        definition="llama",
        file="self_attention.py",
        old="dropout=self.attention_dropout if self.training else 0.0,",
        new="dropout=self.attention_dropout,",
        mistake="dropout in sdpa is active in evaluation: sdpa has no training flag",
        check="same-seed",
    ),
    Mutant(
        name="dropout-in-eval",
        definition="causal_lm",
        file="blocks.py",
        old="self.drop = nn.Dropout(dropout) if dropout else unchanged",
        new="self.drop = (lambda x: nn.functional.dropout(x, dropout)) if dropout else unchanged",
        mistake="functional dropout without its training flag, which is True by default",
        check="same-seed",
        count=2,
    ),
    Mutant(
        name="attention-dropout-dead",
        definition="llama",
        file="modeling_llama.py",
        old="dropout=c.attention_dropout,",
        new="dropout=0.0,",
        mistake="attention_dropout is accepted and has no effect",
        check="same-seed",
    ),
    Mutant(
        name="layer-dropout-dead",
        definition="causal_lm",
        file="modeling_causal_lm.py",
        old="dropout=c.layer_dropout,",
        new="dropout=0.0,",
        mistake="layer_dropout is accepted and has no effect",
        check="same-seed",
    ),
    Mutant(
        name="embedding-dropout-dead",
        definition="single_head",
        file="modeling_single_head.py",
        old="return self.embed_drop(inputs_embeds * self.config.hidden_size**0.5)",
        new="return inputs_embeds * self.config.hidden_size**0.5",
        mistake="embedding_dropout creates a module that is never called",
        check="same-seed",
    ),
]
