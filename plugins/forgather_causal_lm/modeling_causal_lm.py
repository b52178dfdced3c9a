"""The decoder of the original transformer: post-norm, sinusoidal positions (arXiv:1706.03762).

d = hidden_size, H = num_attention_heads.
"""

from torch import Tensor, nn

from forgather_core.parts.attention import Attention
from forgather_core.parts.auto_classes import register
from forgather_core.parts.blocks import PostNormBlock
from forgather_core.parts.decoder import Decoder
from forgather_core.parts.feed_forward import FeedForward
from forgather_core.parts.initial_weights import Table, fan_in_uniform, normal, ones, zeros
from forgather_core.parts.language_model import CausalLM
from forgather_core.parts.sinusoidal import SinusoidalPositions

from .configuration_causal_lm import TransformerConfig


class TransformerModel(Decoder):
    """The decoder: h = embed(ids) sqrt(d) + PE; for each layer h = LN(h + attn(h)), h = LN(h + mlp(h))."""

    config_class = TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        c = config
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size, c.pad_token_id)
        self.embed_positions = SinusoidalPositions(c.hidden_size)
        self.embed_drop = nn.Dropout(c.embedding_dropout)
        self.layers = nn.ModuleList(
            PostNormBlock(
                self_attn=Attention(
                    c.hidden_size,
                    layer_idx=i,
                    num_heads=c.num_attention_heads,
                    num_key_value_heads=c.num_attention_heads,
                    head_dim=c.hidden_size // c.num_attention_heads,
                    dropout=c.attention_dropout,
                    sliding_window=c.sliding_window,
                ),
                post_attention_layernorm=nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps),
                mlp=FeedForward(c.hidden_size, c.intermediate_size, activation="relu", dropout=c.activation_dropout),
                post_feedforward_layernorm=nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps),
                dropout=c.layer_dropout,
            )
            for i in range(c.num_hidden_layers)
        )
        self.norm = nn.Identity()  # the last layer ends with a norm
        self.post_init()

    def prepare(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """Scale embeddings by sqrt(d) (sec. 3.4), add positions (sec. 3.5), apply dropout (sec. 5.4)."""
        scaled = inputs_embeds * self.config.hidden_size**0.5
        return self.embed_drop(scaled + self.embed_positions(position_ids).to(scaled.dtype))

    def initial_weights(self) -> Table:
        """Yield the initialization table. Scaled embeddings have variance 1, position embeddings 1/2."""
        c = self.config
        yield r"norm\.weight", ones()
        yield r"\.bias", zeros()
        yield r"embed_tokens", normal(std=c.hidden_size**-0.5, zero_row=c.pad_token_id)
        yield r"_proj|lm_head", fan_in_uniform()


class TransformerForCausalLM(CausalLM):
    """The decoder with a language model head."""

    config_class = TransformerConfig
    decoder_class = TransformerModel


register(TransformerConfig, TransformerModel, TransformerForCausalLM)
