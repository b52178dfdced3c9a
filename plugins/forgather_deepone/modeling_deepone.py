"""Deepone: DeepNet (arXiv:2203.00555) with the linear position biases of ALiBi (arXiv:2108.12409).

M = num_hidden_layers, H = num_attention_heads, d = hidden_size.
"""

from torch import Tensor, nn

from forgather_core.parts.alibi import Alibi, half_slopes, paper_slopes
from forgather_core.parts.attention import Attention
from forgather_core.parts.auto_classes import register
from forgather_core.parts.blocks import DeepNormBlock
from forgather_core.parts.decoder import Decoder
from forgather_core.parts.feed_forward import GatedFeedForward
from forgather_core.parts.initial_weights import Table, normal, ones, truncated_normal, values, xavier_normal
from forgather_core.parts.language_model import CausalLM
from forgather_core.parts.norms import RMSNorm

from .configuration_deepone import DeeponeConfig

SLOPES = {"paper": paper_slopes, "half": half_slopes}


class DeeponeModel(Decoder):
    """The decoder: h = embed(ids); for each layer h = norm(alpha h + attn(h)), h = norm(alpha h + mlp(h)); norm(h)."""

    config_class = DeeponeConfig

    def __init__(self, config: DeeponeConfig) -> None:
        super().__init__(config)
        c = config
        alpha = (2 * c.num_hidden_layers) ** (1 / 4)  # DeepNet, fig. 2, decoder-only: (2M)^(1/4)
        slopes = SLOPES[c.alibi_slopes](c.num_attention_heads)
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size, c.pad_token_id)
        self.embed_drop = nn.Dropout(c.embedding_dropout)
        self.layers = nn.ModuleList(
            DeepNormBlock(
                alpha=alpha,
                self_attn=Attention(
                    c.hidden_size,
                    layer_idx=i,
                    num_heads=c.num_attention_heads,
                    num_key_value_heads=c.num_key_value_heads,
                    head_dim=c.head_dim,
                    dropout=c.attention_dropout,
                    sliding_window=c.sliding_window,
                    alibi=Alibi(slopes, trainable=c.alibi_trainable),
                ),
                post_attention_layernorm=RMSNorm(c.hidden_size, eps=c.rms_norm_eps),
                mlp=GatedFeedForward(c.hidden_size, c.intermediate_size, activation="relu"),
                post_feedforward_layernorm=RMSNorm(c.hidden_size, eps=c.rms_norm_eps),
                dropout=c.layer_dropout,
            )
            for i in range(c.num_hidden_layers)
        )
        self.norm = RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.post_init()

    def prepare(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """Apply dropout. No positions are added, since ALiBi provides them."""
        return self.embed_drop(inputs_embeds)

    def initial_weights(self) -> Table:
        """Yield the initialization table of DeepNet, fig. 2: Xavier with gain beta = (8M)^(-1/4), 1 for q and k."""
        c = self.config
        beta = (8 * c.num_hidden_layers) ** (-1 / 4)
        yield r"slopes", values(SLOPES[c.alibi_slopes](c.num_attention_heads))
        yield r"norm", ones()
        yield r"(q|k)_proj", xavier_normal(gain=1)
        yield r"(v|o|gate|up|down)_proj", xavier_normal(gain=beta)
        yield (
            r"embed_tokens",
            normal(std=c.hidden_size**-0.5 if c.tie_word_embeddings else 1.0, zero_row=c.pad_token_id),
        )
        yield r"lm_head", truncated_normal(std=c.hidden_size**-0.5, cut=3)


class DeeponeForCausalLM(CausalLM):
    """The decoder with a language model head."""

    config_class = DeeponeConfig
    decoder_class = DeeponeModel


register(DeeponeConfig, DeeponeModel, DeeponeForCausalLM)
