"""Mistakes in ALiBi."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        name="alibi-sign",
        definition="deepone",
        file="alibi.py",
        old="return distance * self.slopes",
        new="return -distance * self.slopes",
        mistake="far keys get more weight, not less",
        check="reference-parity",
    ),
    Mutant(
        name="alibi-positions-in-low-precision",
        definition="single_head",
        file="positions.py",
        old="return TokenPositions(query[None].float(), key[None].float())",
        new="return TokenPositions(query[None].to(inputs_embeds.dtype), key[None].to(inputs_embeds.dtype))",
        mistake="positions are counted in the dtype of the model: in bfloat16 those beyond 256 coincide",
        check="precision",
    ),
    Mutant(
        name="alibi-slopes-cast",
        definition="deepone",
        file="alibi.py",
        old="if self.slopes.dtype != torch.float32 and self.slopes.is_floating_point():",
        new="if self.slopes.dtype == torch.float64:",
        mistake="model.to(bfloat16) rounds the slopes to 8 bits",
        check="precision",
    ),
    Mutant(
        name="alibi-slopes-loaded-in-low-precision",
        definition="single_head",
        file="decoder.py",
        old='self._keep_in_fp32_modules_strict = {"alibi"}',
        new="self._keep_in_fp32_modules_strict = set()",
        mistake="from_pretrained in bfloat16 rounds the slopes to 8 bits",
        check="precision",
    ),
    Mutant(
        name="alibi-slopes-outside-the-graph",
        definition="single_head",
        file="alibi.py",
        old="return distance * self.slopes",
        new="return distance * self.slopes.detach()",
        mistake="slopes are parameters that receive no gradient",
        check="gradients",
    ),
    Mutant(
        name="alibi-slopes-frozen-on-load",
        definition="deepone",
        file="alibi.py",
        old="param.requires_grad_(self.trainable)",
        new="param.requires_grad_(False)",
        mistake="slopes are not trained, whatever the value of alibi_trainable",
        check="estimates",
    ),
    Mutant(
        name="alibi-trainable-dead",
        definition="deepone",
        file="modeling_deepone.py",
        old="trainable=c.alibi_trainable",
        new="trainable=True",
        mistake="alibi_trainable is accepted and has no effect",
        check="no-dead-options",
    ),
    Mutant(
        name="alibi-slopes-dead",
        definition="deepone",
        file="modeling_deepone.py",
        old='yield r"slopes", values(SLOPES[c.alibi_slopes](',
        new='yield r"slopes", values(SLOPES["half"](',
        mistake="alibi_slopes is accepted, and initial slopes are always the default ones",
        check="no-dead-options",
    ),
    Mutant(
        name="alibi-slopes-from-one",
        definition="deepone",
        file="alibi.py",
        old="return [2 ** -(1 + 7 * i / max(num_heads - 1, 1)) for i in range(first)]",
        new="return [2 ** -(7 * i / max(num_heads - 1, 1)) for i in range(first)]",
        mistake="slopes are twice as large: the first is 1, not 1/2",
        check="init-std",
    ),
]
