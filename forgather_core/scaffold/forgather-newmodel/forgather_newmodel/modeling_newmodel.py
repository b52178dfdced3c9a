"""newmodel: pre-norm decoder with RoPE, grouped-query attention, gated feed-forward and scaled residual branches.

Notation: d = hidden_size, L = num_hidden_layers, s = residual_scale.
"""

from torch import nn

from forgather_core.parts.attention import Attention
from forgather_core.parts.auto_classes import register
from forgather_core.parts.decoder import Decoder
from forgather_core.parts.feed_forward import GatedFeedForward
from forgather_core.parts.initial_weights import Table, normal, ones, truncated_normal, xavier_normal
from forgather_core.parts.language_model import CausalLM
from forgather_core.parts.norms import RMSNorm
from forgather_core.parts.rope import Rope

from .configuration_newmodel import NewModelConfig
from .scaled_block import ScaledBlock


class NewModelModel(Decoder):
    """The decoder: h = embed(ids); in each layer h += s attn(norm(h)), then h += s mlp(norm(h)); output norm(h)."""

    config_class = NewModelConfig

    def __init__(self, config: NewModelConfig) -> None:
        super().__init__(config)
        c = config
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size, c.pad_token_id)
        self.rotary_emb = Rope(
            c.head_dim, max_position_embeddings=c.max_position_embeddings, rope_parameters=c.rope_parameters
        )
        self.layers = nn.ModuleList(
            ScaledBlock(
                input_layernorm=RMSNorm(c.hidden_size, eps=c.rms_norm_eps),
                self_attn=Attention(
                    c.hidden_size,
                    layer_idx=i,
                    num_heads=c.num_attention_heads,
                    num_key_value_heads=c.num_key_value_heads,
                    head_dim=c.head_dim,
                    dropout=c.attention_dropout,
                    sliding_window=c.sliding_window,
                ),
                post_attention_layernorm=RMSNorm(c.hidden_size, eps=c.rms_norm_eps),
                mlp=GatedFeedForward(c.hidden_size, c.intermediate_size, activation=c.activation),
                scale=c.residual_scale,
            )
            for i in range(c.num_hidden_layers)
        )
        self.norm = RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.post_init()

    def initial_weights(self) -> Table:
        """Yield (pattern, rule): a parameter is filled by the first pattern that its name contains."""
        c = self.config
        yield r"norm", ones()
        yield r"_proj", xavier_normal()
        yield (
            r"embed_tokens",
            normal(std=c.hidden_size**-0.5 if c.tie_word_embeddings else 1.0, zero_row=c.pad_token_id),
        )
        yield r"lm_head", truncated_normal(std=c.hidden_size**-0.5)


class NewModelForCausalLM(CausalLM):
    """The decoder with a language-modeling head."""

    config_class = NewModelConfig
    decoder_class = NewModelModel


register(NewModelConfig, NewModelModel, NewModelForCausalLM)
