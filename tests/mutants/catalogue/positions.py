"""Mistakes in padding and positions."""

from __future__ import annotations

from .mutant import Mutant

MUTANTS = [
    Mutant(
        name="padding-mask-ignored",
        definition="llama",
        file="layer_inputs.py",
        old="attention_mask=given,",
        new="attention_mask=None,",
        mistake="the padding mask is accepted and ignored (seen in practice)",
        check="padding",
    ),
    Mutant(
        name="padding-mask-of-first-row",
        definition="causal_lm",
        file="layer_inputs.py",
        old="attention_mask=given,",
        new="attention_mask=given[:1].expand_as(given) if given is not None else None,",
        mistake="the padding of the first row is used for the whole batch",
        check="batch-invariance",
    ),
    Mutant(
        name="padding-counted-in-positions",
        definition="causal_lm",
        file="positions.py",
        old="return (counted[:, steps.clamp(max=counted.shape[1] - 1)] - 1).clamp(min=0)",
        new="return steps.unsqueeze(0)",
        mistake="padding on the left shifts absolute positions",
        check="padding",
    ),
    Mutant(
        name="alibi-counts-padding",
        definition="single_head",
        file="positions.py",
        old="if not _may_be_padded(attention_mask):",
        new="if attention_mask is None or True:",
        mistake="padding between two tokens increases their distance",
        check="padding",
    ),
    Mutant(
        name="positions-forget-cache",
        definition="llama",
        file="positions.py",
        old="steps = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past_length",
        new="steps = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + 0 * past_length",
        mistake="tokens after the first chunk have the positions of the beginning of a text",
        check="kv-cache",
    ),
    Mutant(
        name="positions-off-by-one-after-prefill",
        definition="qwen3",
        file="positions.py",
        old="device=inputs_embeds.device) + past_length",
        new="device=inputs_embeds.device) + past_length + int(past_length > 0)",
        mistake="the first token after a prefill is one position too far: length and last index are confused",
        check="kv-cache",
    ),
    Mutant(
        name="position-ids-ignored",
        definition="causal_lm",
        file="modeling_causal_lm.py",
        old="self.embed_positions(position_ids)",
        new="self.embed_positions(position_ids.clone().fill_(1).cumsum(-1) - 1)",
        mistake="sinusoidal positions restart at 0 in each call and do not restart with documents",
        check="positions",
    ),
    Mutant(
        name="positions-of-first-row",
        definition="llama",
        file="layer_inputs.py",
        old="rotary_emb(self.inputs_embeds, position_ids=self.position_ids)",
        new="rotary_emb(self.inputs_embeds, position_ids=self.position_ids[:1])",
        mistake="the positions of the first row are used for the whole batch",
        check="batch-invariance",
    ),
    Mutant(
        name="sinusoids-off-by-one",
        definition="causal_lm",
        file="sinusoidal.py",
        old="position_ids[..., None].float()",
        new="(position_ids[..., None] + 1).float()",
        mistake="positions start at 1, as fairseq's after its padding index; the paper's start at 0",
        check="reference-parity",
    ),
    Mutant(
        name="sinusoids-in-halves",
        definition="causal_lm",
        file="sinusoidal.py",
        old="torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)",
        new="torch.cat((angles.sin(), angles.cos()), dim=-1)",
        mistake="sines in one half of the channels, cosines in the other, as in tensor2tensor, unlike the formula",
        check="reference-parity",
    ),
    Mutant(
        name="positions-added-to-tokens",
        definition="llama",
        file="decoder.py",
        old="        return inputs_embeds\n",
        new="        return inputs_embeds + 0.1 * position_ids[..., None]\n",
        mistake="a model with relative positions depends on absolute ones too",
        check="positions",
    ),
    Mutant(
        name="padding-makes-nan",
        definition="llama",
        file="language_model.py",
        old="hidden_states = outputs.last_hidden_state",
        new="hidden_states = outputs.last_hidden_state\n"
        "        mask = kwargs.get('attention_mask', attention_mask)\n"
        "        if mask is not None:\n"
        "            padding = mask[:, -hidden_states.shape[1] :, None] == 0\n"
        "            hidden_states = hidden_states.masked_fill(padding, float('nan'))",
        mistake="rows of padding are NaN, as after the softmax of a row that is masked everywhere",
        check="padding",
    ),
    Mutant(
        name="positions-in-low-precision",
        definition="causal_lm",
        file="modeling_causal_lm.py",
        old="self.embed_positions(position_ids)",
        new="self.embed_positions(position_ids.to(scaled.dtype))",
        mistake="positions are rounded to the dtype of the model before their sines",
        check="precision",
    ),
]
