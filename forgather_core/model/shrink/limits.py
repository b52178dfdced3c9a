"""Small values of sizes that not every model has: mixtures of experts, latent attention, recurrent layers."""

from __future__ import annotations

from .sizes import Sizes

WINDOW = 6
_FEED_FORWARD = (
    "intermediate_size", "moe_intermediate_size", "shared_intermediate_size", "shared_expert_intermediate_size",
    "shared_experts_intermediate_size", "moe_shared_expert_intermediate_size", "dense_intermediate_size",
    "intermediate_size_mlp", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size",
    "expert_ffn_hidden_size", "d_inner", "n_inner", "dff", "dim_ff", "feed_forward_size",
)  # fmt: skip
_WINDOWS = (
    "sliding_window", "sliding_window_size", "window_size", "attention_window_size", "attention_chunk_size",
    "local_attention", "index_topk",
)  # fmt: skip
_EXPERTS = {
    8: ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"),
    2: (
        "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "n_group", "num_expert_group",
        "zero_expert_num",
    ),
    1: ("topk_group",),
}  # fmt: skip
_HEADS = {
    # Of few heads that index keys, often none is active: their scores are all 0, and the choice of keys is arbitrary.
    32: ("q_lora_rank", "index_n_heads"),
    16: (
        "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "o_lora_rank", "index_head_dim",
        "mamba_d_state", "state_size", "ssm_state_size", "linear_key_head_dim", "linear_value_head_dim",
        "linear_head_dim", "swa_head_dim", "dim_head", "hidden_size_per_layer_input", "pronunciation_embed_dim",
        "shape_embed_dim",
    ),
    8: ("time_step_rank", "mamba_dt_rank", "chunk_size", "mamba_chunk_size", "block_size"),
    4: ("linear_num_value_heads", "linear_num_heads", "swa_num_attention_heads"),
    2: (
        "linear_num_key_heads", "o_groups", "mamba_n_groups", "mamba_ngroups", "n_groups",
        "swa_num_key_value_heads",
    ),
}  # fmt: skip
_STATES = (
    ("mamba_n_heads", "mamba_d_head", "mamba_expand"),
    ("num_heads", "head_dim", "expand"),
    ("n_mamba_heads", "mamba_headdim", "mamba_expand"),
)
_STATE_HEADS = 4
_PROPORTIONAL = (
    "attention_hidden_size", "lru_width", "embedding_size", "word_embed_proj_dim", "input_embedding_size",
    "output_embedding_size", "embedding_dim",
)  # fmt: skip


def shrink_windows(sizes: Sizes) -> None:
    """Make windows shorter than texts of a few tokens."""
    sizes.limit(_WINDOWS, WINDOW)


def shrink_others(sizes: Sizes, width: int, *, keep_heads: bool) -> None:
    """Reduce feed-forward layers, experts and, unless heads are kept, low ranks and the heads of recurrent layers.

    Args:
        sizes: The configuration.
        width: The new hidden size.
        keep_heads: Keep the sizes of heads.
    """
    sizes.limit(_FEED_FORWARD, 2 * width + 8)
    for most, names in _EXPERTS.items():
        sizes.limit(names, most)
    if keep_heads:
        return
    for most, names in _HEADS.items():
        sizes.limit(names, most)
    if sizes["head_dim"] is not None and sizes["head_dim"] == sizes["qk_rope_head_dim"]:
        sizes.set("head_dim", sizes.current("qk_rope_head_dim"))
    if sizes["qk_head_dim"] is not None:
        sizes.set("qk_head_dim", sizes.current("qk_nope_head_dim") + sizes.current("qk_rope_head_dim"))
    for heads, size, expand in _STATES:
        if sizes[heads] and sizes[expand]:  # heads x size = expand x width
            sizes.set(heads, _STATE_HEADS)
            sizes.set(size, sizes[expand] * width // _STATE_HEADS)
            if sizes["mamba_d_ssm"]:
                sizes.set("mamba_d_ssm", sizes[expand] * width)
    for name in _PROPORTIONAL:
        if sizes[name]:
            sizes.set(name, max(sizes[name] * width // sizes["hidden_size"], 1))
    if sizes["attention_head_dim"] and sizes["attention_hidden_size"]:
        sizes.set("attention_head_dim", sizes.current("attention_hidden_size") // sizes.current("num_attention_heads"))
