"""Mistakes in gradients and gradient checkpointing."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        name="checkpointing-dead",
        definition="llama",
        file="block.py",
        old="class Block(GradientCheckpointingLayer):",
        new="class Block(nn.Module):",
        mistake="gradient_checkpointing_enable() sets a flag that no layer reads",
        check="gradient-checkpointing",
        beyond_calls=True,
    ),
    Mutant(
        name="gradient-cut-in-residual",
        definition="qwen3",
        file="blocks.py",
        old="hidden_states = hidden_states + self.drop(attended)",
        new="hidden_states = hidden_states.detach() + self.drop(attended)",
        mistake="a detach in the residual: every weight still has a gradient, of the wrong size",
        check="native-parity",
    ),
    Mutant(
        name="gradient-cut-in-keys",
        definition="causal_lm",
        file="attention.py",
        old="query_BHTK, key_BGTK = query_BTHK.transpose(1, 2), key_BTGK.transpose(1, 2)",
        new="query_BHTK, key_BGTK = query_BTHK.transpose(1, 2), key_BTGK.transpose(1, 2).detach()",
        mistake="keys are detached, as for a cache, and never trained",
        check="gradients",
    ),
    Mutant(
        name="gradient-cut-in-norm",
        definition="mistral",
        file="norms.py",
        old="x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)",
        new="x = x * torch.rsqrt(x.detach().square().mean(-1, keepdim=True) + self.eps)",
        mistake="the root mean square is treated as a constant in backward",
        check="native-parity",
    ),
    Mutant(
        name="gradient-of-sdpa-only",
        definition="llama",
        file="self_attention.py",
        old="weights_BHTS = scores_BHTS.softmax(-1)",
        new="weights_BHTS = scores_BHTS.detach().softmax(-1)",
        mistake="attention weights are treated as constants in backward, in one implementation",
        check="gradients",
    ),
]
