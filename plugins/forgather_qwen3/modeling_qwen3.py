"""Qwen3: Llama with RMSNorm on the query and key of each head (arXiv:2505.09388, sec. 2)."""

from torch import nn

from forgather_core.parts.attention import Attention
from forgather_core.parts.auto_classes import register
from forgather_core.parts.blocks import PreNormBlock
from forgather_core.parts.decoder import Decoder
from forgather_core.parts.feed_forward import GatedFeedForward
from forgather_core.parts.initial_weights import Table
from forgather_core.parts.language_model import CausalLM
from forgather_core.parts.llama_weights import llama_weights
from forgather_core.parts.norms import RMSNorm
from forgather_core.parts.rope import Rope

from .configuration_qwen3 import Qwen3Config


class Qwen3Model(Decoder):
    """The decoder: h = embed(ids); for each layer h += attn(norm(h)), h += mlp(norm(h)); norm(h).

    Within attention, q = rope(norm(W_q x)) and k = rope(norm(W_k x)), head by head.
    """

    config_class = Qwen3Config

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__(config)
        c = config
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size, c.pad_token_id)
        self.rotary_emb = Rope(
            c.head_dim, max_position_embeddings=c.max_position_embeddings, rope_parameters=c.rope_parameters
        )
        self.layers = nn.ModuleList(
            PreNormBlock(
                input_layernorm=RMSNorm(c.hidden_size, eps=c.rms_norm_eps),
                self_attn=Attention(
                    c.hidden_size,
                    layer_idx=i,
                    num_heads=c.num_attention_heads,
                    num_key_value_heads=c.num_key_value_heads,
                    head_dim=c.head_dim,
                    dropout=c.attention_dropout,
                    sliding_window=c.sliding_window if c.layer_types[i] == "sliding_attention" else None,
                    q_norm=RMSNorm(c.head_dim, eps=c.rms_norm_eps),
                    k_norm=RMSNorm(c.head_dim, eps=c.rms_norm_eps),
                ),
                post_attention_layernorm=RMSNorm(c.hidden_size, eps=c.rms_norm_eps),
                mlp=GatedFeedForward(c.hidden_size, c.intermediate_size, activation="silu"),
            )
            for i in range(c.num_hidden_layers)
        )
        self.norm = RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.post_init()

    def initial_weights(self) -> Table:
        """Return the initialization table of llama."""
        c = self.config
        return llama_weights(c.hidden_size, c.num_hidden_layers, tied=c.tie_word_embeddings, pad=c.pad_token_id)


class Qwen3ForCausalLM(CausalLM):
    """The decoder with a language model head."""

    config_class = Qwen3Config
    decoder_class = Qwen3Model


register(Qwen3Config, Qwen3Model, Qwen3ForCausalLM)
