"""The model, of Forgather's parts and one block of its own."""

from torch import nn

from forgather_core.parts.attention import Attention
from forgather_core.parts.auto_classes import register
from forgather_core.parts.decoder import Decoder
from forgather_core.parts.feed_forward import GatedFeedForward
from forgather_core.parts.initial_weights import Table, normal, ones
from forgather_core.parts.language_model import CausalLM
from forgather_core.parts.norms import RMSNorm
from forgather_core.parts.rope import Rope

from .configuration_parallel import ParallelConfig
from .parallel_block import ParallelBlock


class ParallelModel(Decoder):
    """The decoder."""

    config_class = ParallelConfig

    def __init__(self, config: ParallelConfig) -> None:
        super().__init__(config)
        c = config
        head_dim = c.hidden_size // c.num_attention_heads
        rope = {"rope_type": "default", "rope_theta": 10000.0}
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size, c.pad_token_id)
        self.rotary_emb = Rope(head_dim, max_position_embeddings=2048, rope_parameters=rope)
        self.layers = nn.ModuleList(
            ParallelBlock(
                norm=RMSNorm(c.hidden_size, eps=1e-6),
                self_attn=Attention(
                    c.hidden_size,
                    layer_idx=i,
                    num_heads=c.num_attention_heads,
                    num_key_value_heads=c.num_attention_heads,
                    head_dim=head_dim,
                ),
                mlp=GatedFeedForward(c.hidden_size, 2 * c.hidden_size, activation=c.activation),
                scale=c.branch_scale,
            )
            for i in range(c.num_hidden_layers)
        )
        self.norm = RMSNorm(c.hidden_size, eps=1e-6)
        self.post_init()

    def initial_weights(self) -> Table:
        """Norms one, everything else normal."""
        yield r"norm", ones()
        yield r"", normal(std=0.02)


class ParallelForCausalLM(CausalLM):
    """The decoder with a head."""

    config_class, decoder_class = ParallelConfig, ParallelModel


register(ParallelConfig, ParallelModel, ParallelForCausalLM)
