"""Mistakes that the checks of behaviour must find."""

from __future__ import annotations

# A replacement in a file of the model directory, and the checks that must fail.
PLANTED: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "packing is detected only without a cache": (
        "masks.py",
        "if position_ids is not None and not ready:",
        "if position_ids is not None and not ready and cache is None and attention_mask is None:",
        ("packing-isolation",),
    ),
    "a document sees the last token of the one before": (
        "masks.py",
        "return kv_idx >= starts",
        "return kv_idx + 1 >= starts",
        ("packing-isolation",),
    ),
    "the mask is dropped": (
        "masks.py",
        "attention_mask=attention_mask,\n        **{CACHE: cache}",
        "attention_mask=None,\n        **{CACHE: cache}",
        ("padding", "kv-cache", "generation"),
    ),
    "padding is counted in absolute positions": (
        "positions.py",
        "counted = attention_mask.to(steps.device).long()",
        "counted = torch.ones_like(attention_mask)",
        ("padding",),
    ),
    "cached tokens are forgotten in positions": (
        "positions.py",
        "device=inputs_embeds.device) + past_length",
        "device=inputs_embeds.device) + 0 * past_length",
        ("kv-cache",),
    ),
    "keys are cached as values": (
        "caches.py",
        "cache.update(key, value, layer_idx",
        "cache.update(key, key, layer_idx",
        ("kv-cache", "generation"),
    ),
    "no cache is returned": ("language_model.py", "**{CACHE: outputs.get(CACHE)}", "**{CACHE: None}", ("kv-cache",)),
    "eager forgets its scaling": (
        "self_attention.py",
        "key_BHSK.transpose(-1, -2) * scaling",
        "key_BHSK.transpose(-1, -2)",
        ("attention-backends",),
    ),
    "checkpointing does nothing": (
        "blocks.py",
        "class Block(GradientCheckpointingLayer):",
        "class Block(torch.nn.Module):",
        ("gradient-checkpointing",),
    ),
    "keys are computed without gradients": (
        "attention.py",
        "self.k_proj(hidden_states).view(heads)",
        "self.k_proj(hidden_states).detach().view(heads)",
        ("gradients",),
    ),
    "labels are shifted twice": (
        "language_model.py",
        "self.loss_function(logits=logits, labels=labels,",
        "self.loss_function(logits=logits, labels=labels.roll(-1, 1),",
        ("loss",),
    ),
    "num_items_in_batch is forgotten": (
        "language_model.py",
        "vocab_size=self.config.vocab_size, **kwargs)",
        "vocab_size=self.config.vocab_size)",
        ("loss",),
    ),
    "logits_to_keep keeps the first": (
        "language_model.py",
        "slice(-logits_to_keep, None)",
        "slice(logits_to_keep or None)",
        ("loss",),
    ),
    "the chunked loss counts labels of -100": (
        "language_model.py",
        "linear_cross_entropy(hidden_states, self.lm_head.weight, labels,",
        "linear_cross_entropy(hidden_states, self.lm_head.weight, labels.clamp(min=0),",
        ("loss",),
    ),
    "token embeddings are scaled and inputs_embeds are not": (
        "decoder.py",
        "inputs_embeds = self.embed_tokens(input_ids)",
        "inputs_embeds = 2 * self.embed_tokens(input_ids)",
        ("inputs-embeds",),
    ),
    "token ids and embeddings are accepted together": (
        "decoder.py",
        "if (input_ids is None) == (inputs_embeds is None):",
        "if input_ids is None and inputs_embeds is None:",
        ("inputs-embeds",),
    ),
    "a mean over the batch": (
        "language_model.py",
        "hidden_states = outputs.last_hidden_state",
        "hidden_states = outputs.last_hidden_state\n"
        "        hidden_states = hidden_states - 1e-3 * hidden_states.mean(0)",
        ("batch-invariance",),
    ),
    "RoPE is computed and not used": (
        "attention.py",
        "if position_embeddings is not None:",
        "if position_embeddings is None:",
        ("positions",),
    ),
    "positions are added to tokens as well": (
        "decoder.py",
        "        return inputs_embeds\n",
        "        return inputs_embeds + 0.1 * position_ids[..., None]\n",
        ("positions",),
    ),
    "a branch depends on a value": (
        "language_model.py",
        "hidden_states = outputs.last_hidden_state",
        "hidden_states = outputs.last_hidden_state\n        if hidden_states.sum() > 1e9:\n            print()",
        ("torch-compile",),
    ),
    "padding makes NaN": (
        "language_model.py",
        "hidden_states = outputs.last_hidden_state",
        "hidden_states = outputs.last_hidden_state\n"
        "        mask = kwargs.get('attention_mask', attention_mask)\n"
        "        if mask is not None:\n"
        "            padding = mask[:, -hidden_states.shape[1] :, None] == 0\n"
        "            hidden_states = hidden_states.masked_fill(padding, float('nan'))",
        ("padding",),
    ),
}
