"""Entries of transformers' tensor- and pipeline-parallel plans for the layers of a decoder.

FSDP requires none: transformers' own plan (embeddings, each layer, the final norm) fits every decoder with a norm.
"""

from typing import Any

Plan = dict[str, str]

# Each device has some of the query heads and their key/value heads. The slopes of ALiBi are split in the same way.
HEADS: Plan = {
    "layers.*.self_attn.q_proj": "colwise",
    "layers.*.self_attn.k_proj": "colwise",
    "layers.*.self_attn.v_proj": "colwise",
    "layers.*.self_attn.o_proj": "rowwise",
}
ALIBI: Plan = {"layers.*.self_attn.alibi": "colwise"}
# Norms of single heads are replicated, and get the gradients of the device's heads only.
HEAD_NORMS: Plan = {
    "layers.*.self_attn.q_norm": "replicated_with_grad_allreduce",
    "layers.*.self_attn.k_norm": "replicated_with_grad_allreduce",
}
# Each device has some of the hidden channels.
FEED_FORWARD: Plan = {"layers.*.mlp.up_proj": "colwise", "layers.*.mlp.down_proj": "rowwise"}
GATED_FEED_FORWARD: Plan = {"layers.*.mlp.gate_proj": "colwise", **FEED_FORWARD}

STAGES: dict[str, Any] = {
    "embed_tokens": (["input_ids"], ["inputs_embeds"]),
    "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
    "norm": (["hidden_states"], ["hidden_states"]),
}
