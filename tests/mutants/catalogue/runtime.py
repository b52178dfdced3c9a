"""Mistakes in compilation and state between calls."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        name="graph-break",
        definition="llama",
        file="decoder.py",
        old="        for layer, need, own in zip(layers, needs, arguments, strict=True):\n",
        new="        if bool(hidden_states.isnan().any()):\n"
        '            raise ValueError("not a number")\n'
        "        for layer, need, own in zip(layers, needs, arguments, strict=True):\n",
        mistake="reading a value in forward breaks the compiled graph and synchronizes with the device",
        check="torch-compile",
        beyond_calls=True,
    ),
    Mutant(
        name="graph-break-by-print",
        definition="deepone",
        file="norms.py",
        old="        x = hidden_states.float()\n",
        new="        x = hidden_states.float()\n        if x.mean().item() > 1e30:\n            return hidden_states\n",
        mistake="an .item() in each norm",
        check="torch-compile",
    ),
    Mutant(
        name="state-kept-between-calls",
        definition="single_head",
        file="decoder.py",
        old="        hidden_states = inputs_embeds\n",
        new='        inputs_embeds = inputs_embeds + 1e-3 * getattr(self, "_last", 0.0)\n'
        "        self._last = float(inputs_embeds.mean())\n        hidden_states = inputs_embeds\n",
        mistake="a call depends on the previous one, as with RoPE variants that store the longest length",
        check="same-seed",
    ),
    Mutant(
        name="random-in-eval",
        definition="qwen3",
        file="decoder.py",
        old="        hidden_states = inputs_embeds\n",
        new="        inputs_embeds = inputs_embeds + 1e-4 * inputs_embeds.new_empty(inputs_embeds.shape).normal_()\n"
        "        hidden_states = inputs_embeds\n",
        mistake="noise for training (NEFTune) that is not switched off in evaluation",
        check="same-seed",
    ),
]
