"""A decoder around its layers: token ids in, hidden states out.

What every decoder needs and no paper is about stands here once: positions, masks, caches, packing, gradient
checkpointing, initial weights. A definition adds its layers; `language_model.py` adds a head.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from forgather_core.parts.attention import Attention, eager_attention
from forgather_core.parts.blocks import Block
from forgather_core.parts.cache_name import CACHE, the_cache
from forgather_core.parts.initial_weights import Table
from forgather_core.parts.masks import decoder_mask
from forgather_core.parts.table_init import initialise_module


class DecoderBase(PreTrainedModel):
    """What the decoder and the language model on top of it have in common."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values", "cache"]
    _can_record_outputs: ClassVar[dict[str, Any]] = {"hidden_states": Block, "attentions": Attention}
    _constructed = False

    def initial_weights(self) -> Table:
        """Pairs of a pattern and a rule; the first pattern that is found in a parameter's name wins."""
        raise NotImplementedError

    def post_init(self) -> None:
        """transformers' last step of construction: initial weights, ties, parallel plans."""
        super().post_init()
        self._constructed = True

    def init_weights(self) -> None:
        """Fill what no checkpoint has filled from the table, let every part compute its buffers, tie what is tied.

        Construction does so once. Called again, it starts anew: transformers by itself would skip what it has marked.
        """
        if self._constructed:
            for module in self.modules():
                module._is_hf_initialized = False
        super().init_weights()

    def _init_weights(self, module: nn.Module) -> None:
        initialise_module(self, module)

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        # A configuration remembers the dtype that was last saved. A default dtype that the caller has set is newer.
        if torch.get_default_dtype() != torch.float32 and not kwargs.keys() & {"dtype", "torch_dtype"}:
            kwargs["dtype"] = torch.get_default_dtype()
        return super()._from_config(config, **kwargs)


class Decoder(DecoderBase):
    """Embeddings, layers, final norm. A definition sets `embed_tokens`, `layers`, `norm` and, if it rotates,
    `rotary_emb`.

    `sliding_window` is read from the configuration where there is one.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        self.sliding_window: int | None = getattr(config, "sliding_window", None)

    def post_init(self) -> None:
        """transformers' last step of construction, once all layers are there."""
        self._no_split_modules = sorted({type(layer).__name__ for layer in self.layers})
        for module in self.modules():
            if isinstance(module, Attention):
                module.config = self.config
        super().post_init()

    def embed(self, input_ids: Tensor) -> Tensor:
        """[B, T] -> [B, T, D]. A definition that scales its embeddings does so here."""
        return self.embed_tokens(input_ids)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, T, D] of token ids [B, T] or of embeddings [B, T, D].

        Args:
            input_ids: Token ids, or None where `inputs_embeds` is given.
            attention_mask: [B, S], 0 on padding, cached tokens counted; or a ready mask [B, 1, T, S].
            position_ids: [B, T]. Where they restart, a new document begins, and sees nothing before it.
            past_key_values, cache: Keys and values of earlier tokens, by either name.
            inputs_embeds: Embeddings instead of token ids.
            use_cache: Whether to return a cache. Gradient checkpointing recomputes layers, and goes without one.
            **kwargs: Handed on to attention.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        cache = the_cache(past_key_values, cache)
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids)  # type: ignore[arg-type]
        if self.gradient_checkpointing and self.training:
            if cache is not None and cache.get_seq_length() > 0:
                raise ValueError("gradient checkpointing recomputes layers and cannot train upon a filled cache")
            use_cache, cache = False, None
        attention_mask, more = decoder_mask(
            self.config,
            inputs_embeds,
            attention_mask=attention_mask,
            cache=cache,
            position_ids=position_ids,
            sliding_window=self.sliding_window,
        )
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            past_length = cache.get_seq_length() if cache is not None else 0
            steps = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
            position_ids = (steps + past_length).unsqueeze(0)
        if (rotary_emb := getattr(self, "rotary_emb", None)) is not None:
            more["position_embeddings"] = rotary_emb(inputs_embeds, position_ids)
        attention_function = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=attention_mask,
                position_ids=position_ids,
                cache=cache,
                attention_function=attention_function,
                **(more | kwargs),  # document lengths given by the caller win
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **{CACHE: cache})
