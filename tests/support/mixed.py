"""A decoder of layers that differ: attention with and without windows and RoPE, and a recurrent mixer with a state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forgather_core.option import option
from forgather_core.parts.attention import Attention
from forgather_core.parts.block import Block
from forgather_core.parts.blocks import PreNormBlock
from forgather_core.parts.decoder import Decoder
from forgather_core.parts.decoder_config import DecoderConfig
from forgather_core.parts.feed_forward import GatedFeedForward
from forgather_core.parts.initial_weights import Table, normal, ones
from forgather_core.parts.language_model import CausalLM
from forgather_core.parts.norms import RMSNorm
from forgather_core.parts.option_groups import GroupedHeadOptions, RMSNormOptions, WindowOptions
from forgather_core.parts.requirements import Needs
from forgather_core.parts.rope import Rope
from forgather_core.parts.rope_options import RopeOptions
from forgather_core.parts.states import cached_state, keep_state
from tests.plugins.tiny import randomize_weights

LOCAL = {"rope_type": "default", "rope_theta": 50.0}


@dataclass(kw_only=True)
class MixedOptions(RopeOptions, WindowOptions, RMSNormOptions, GroupedHeadOptions):
    layer_types: list[str] = field(default_factory=list)
    ropes: list[str | None] = option(None, help="Name of the rotary embedding of each layer")  # type: ignore[assignment]
    extras: str = option("", help="Values that layers exchange")


class MixedConfig(MixedOptions, DecoderConfig):
    model_type = "forgather_test_mixed"
    built_in: ClassVar[dict[str, Any]] = {}


class Retention(nn.Module):
    """Recurrent mixer S = 0.8 S + k v^T, y = q S, with a state that stops at documents and skips padding."""

    def __init__(self, hidden_size: int, *, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.qkv_proj = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def needs(self) -> Needs:
        return Needs(cache="linear_attention", inputs=("padding_mask", "document_starts"))

    def forward(
        self,
        hidden_states: Tensor,
        *,
        padding_mask: Tensor | None,
        document_starts: Tensor | None,
        cache: Any = None,
        past_key_values: Any = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        cache = cache if cache is not None else past_key_values
        q, k, v = self.qkv_proj(hidden_states).chunk(3, dim=-1)
        state = cached_state(cache, self.layer_idx)
        if state is None:
            state = hidden_states.new_zeros(k.shape[0], k.shape[-1], v.shape[-1])
        results = []
        for t in range(hidden_states.shape[1]):
            if document_starts is not None:
                state = state * (document_starts[:, t] != t)[:, None, None]
            new = 0.8 * state + k[:, t, :, None] * v[:, t, None, :]
            state = new if padding_mask is None else torch.where(padding_mask[:, t, None, None], new, state)
            results.append((q[:, t, None, :] @ state)[:, 0])
        keep_state(cache, self.layer_idx, state)
        return self.o_proj(torch.stack(results, dim=1)), None


class AddsInput(nn.Module):
    """Feed-forward layer with a term of a value that it asks for: mlp(x) + projected value."""

    def __init__(self, mlp: nn.Module, hidden_size: int, name: str) -> None:
        super().__init__()
        self.mlp, self.name = mlp, name
        self.value_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def needs(self) -> Needs:
        return Needs(inputs=(self.name,))

    def forward(self, hidden_states: Tensor, **values: Tensor) -> Tensor:
        return self.mlp(hidden_states) + self.value_proj(values[self.name])


class ReturnsValue(nn.Module):
    """Feed-forward layer that returns its input's projection under a name."""

    def __init__(self, mlp: nn.Module, hidden_size: int, name: str) -> None:
        super().__init__()
        self.mlp, self.name = mlp, name
        self.value_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def needs(self) -> Needs:
        return Needs(returns=(self.name,))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        return self.mlp(hidden_states), self.value_proj(hidden_states)


class MixedModel(Decoder):
    config_class = MixedConfig

    def __init__(self, config: MixedConfig) -> None:
        super().__init__(config)
        c = config
        rope = {"max_position_embeddings": 64}
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size, c.pad_token_id)
        self.rotary_emb = Rope(c.head_dim, rope_parameters=c.rope_parameters, **rope)
        self.rotary_emb_local = Rope(c.head_dim, rope_parameters=LOCAL, **rope)
        self.layers = nn.ModuleList(self.layer(i) for i in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.post_init()

    def layer(self, i: int) -> Block:
        c = self.config
        kind = c.layer_types[i]
        mixer: nn.Module
        if kind == "linear_attention":
            mixer = Retention(c.hidden_size, layer_idx=i)
        else:
            mixer = Attention(
                c.hidden_size,
                layer_idx=i,
                num_heads=c.num_attention_heads,
                num_key_value_heads=c.num_key_value_heads,
                head_dim=c.head_dim,
                sliding_window=c.sliding_window if kind == "sliding_attention" else None,
                rope=c.ropes[i] if c.ropes else "default",
            )
        mlp: nn.Module = GatedFeedForward(c.hidden_size, c.intermediate_size, activation="silu")
        if c.extras == "first value":
            mlp = (ReturnsValue if i == 0 else AddsInput)(mlp, c.hidden_size, "first_value")
        elif c.extras == "routers":
            mlp = ReturnsValue(mlp, c.hidden_size, "router_logits")
        elif c.extras:
            mlp = AddsInput(mlp, c.hidden_size, c.extras)
        return PreNormBlock(
            input_layernorm=RMSNorm(c.hidden_size, eps=c.rms_norm_eps),
            self_attn=mixer,
            post_attention_layernorm=RMSNorm(c.hidden_size, eps=c.rms_norm_eps),
            mlp=mlp,
        )

    def initial_weights(self) -> Table:
        yield r"norm", ones()
        yield r"", normal(std=0.02)


class MixedForCausalLM(CausalLM):
    config_class, decoder_class = MixedConfig, MixedModel

    def auxiliary_loss(self, values: dict[str, tuple[Tensor, ...]], attention_mask: Any) -> Tensor | None:
        logits = values.get("router_logits")
        return None if logits is None else torch.stack([x.square().mean() for x in logits]).sum()


def mixed(*layer_types: str, attention: str = "sdpa", **options: Any) -> Any:
    """Return a tiny model with these layers in eval mode, with large random weights."""
    config = MixedConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=len(layer_types),
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        layer_types=list(layer_types),
        **{"sliding_window": 5 if "sliding_attention" in layer_types else None} | options,
        attn_implementation=attention,
    )
    model = MixedForCausalLM(config)
    randomize_weights(model)
    return model.eval()
