"""A transformer with one attention head per layer, for analysis (transformer-circuits.pub/2021/framework).

d = hidden_size, also the dimension of the head; positions are the linear biases of ALiBi (arXiv:2108.12409).
"""

from torch import Tensor, nn

from forgather_core.parts.alibi import Alibi
from forgather_core.parts.auto_classes import register
from forgather_core.parts.blocks import PreNormBlock
from forgather_core.parts.decoder import Decoder
from forgather_core.parts.feed_forward import GatedFeedForward
from forgather_core.parts.initial_weights import Table, fan_in_uniform, normal, ones, values
from forgather_core.parts.language_model import CausalLM
from forgather_core.parts.norms import RMSNorm
from forgather_core.parts.single_head_attention import SingleHeadAttention

from .configuration_single_head import SingleHeadConfig

SLOPE = 0.5  # initial value in every layer


class SingleHeadModel(Decoder):
    """The decoder: h = embed(ids) sqrt(d); for each layer h += attn(norm(h)), h += mlp(norm(h)); norm(h)."""

    config_class = SingleHeadConfig

    def __init__(self, config: SingleHeadConfig) -> None:
        super().__init__(config)
        c = config
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size, c.pad_token_id)
        self.embed_drop = nn.Dropout(c.embedding_dropout)
        self.layers = nn.ModuleList(
            PreNormBlock(
                input_layernorm=RMSNorm(c.hidden_size, eps=c.rms_norm_eps),
                self_attn=SingleHeadAttention(
                    c.hidden_size,
                    layer_idx=i,
                    dropout=c.attention_dropout,
                    sliding_window=c.sliding_window,
                    alibi=Alibi([SLOPE], trainable=True),
                ),
                post_attention_layernorm=RMSNorm(c.hidden_size, eps=c.rms_norm_eps),
                mlp=GatedFeedForward(c.hidden_size, c.intermediate_size, activation="relu"),
                dropout=c.layer_dropout,
            )
            for i in range(c.num_hidden_layers)
        )
        self.norm = RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.post_init()

    def prepare(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """Scale embeddings by sqrt(d), to variance 1. No positions are added, since ALiBi provides them."""
        return self.embed_drop(inputs_embeds * self.config.hidden_size**0.5)

    def initial_weights(self) -> Table:
        """Yield the initialization table. The embedding is also the head, so its rows have a norm of about 1."""
        c = self.config
        yield r"slopes", values([SLOPE])
        yield r"norm", ones()
        yield r"embed_tokens", normal(std=c.hidden_size**-0.5, zero_row=c.pad_token_id)
        yield r"_proj|lm_head", fan_in_uniform()


class SingleHeadForCausalLM(CausalLM):
    """The decoder with a language model head."""

    config_class = SingleHeadConfig
    decoder_class = SingleHeadModel


register(SingleHeadConfig, SingleHeadModel, SingleHeadForCausalLM)
