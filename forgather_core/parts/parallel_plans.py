"""How the layers of a decoder are split over devices: entries of transformers' tensor- and pipeline-parallel plans.

FSDP needs none: transformers' own plan (embeddings, each layer, the final norm) fits every decoder that has a norm.
"""

from typing import Any

Plan = dict[str, str]

# Each device has some of the heads; with grouped queries, the key/value heads of those. The slopes of ALiBi go along.
HEADS: Plan = {
    "layers.*.self_attn.q_proj": "colwise",
    "layers.*.self_attn.k_proj": "colwise",
    "layers.*.self_attn.v_proj": "colwise",
    "layers.*.self_attn.o_proj": "rowwise",
}
ALIBI: Plan = {"layers.*.self_attn.alibi": "colwise"}
# Norms of single heads are on every device, and see only its heads.
HEAD_NORMS: Plan = {
    "layers.*.self_attn.q_norm": "replicated_with_grad_allreduce",
    "layers.*.self_attn.k_norm": "replicated_with_grad_allreduce",
}
# Each device has some of the channels between the two halves of the layer.
FEED_FORWARD: Plan = {"layers.*.mlp.up_proj": "colwise", "layers.*.mlp.down_proj": "rowwise"}
GATED_FEED_FORWARD: Plan = {"layers.*.mlp.gate_proj": "colwise", **FEED_FORWARD}

STAGES: dict[str, Any] = {
    "embed_tokens": (["input_ids"], ["inputs_embeds"]),
    "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
    "norm": (["hidden_states"], ["hidden_states"]),
}
