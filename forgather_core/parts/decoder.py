"""A decoder around its layers: token ids in, hidden states out.

What every decoder needs and no paper is about stands here once: positions, masks, caches, packing, gradient
checkpointing, initial weights. A definition adds its layers; `language_model.py` adds a head.
"""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from forgather_core.parts.attention import AttentionFunction, SelfAttention, eager_attention
from forgather_core.parts.blocks import Block
from forgather_core.parts.cache_name import CACHE, the_cache
from forgather_core.parts.initial_weights import Table
from forgather_core.parts.masks import cached_length, decoder_mask
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
    _can_record_outputs: ClassVar[dict[str, Any]] = {"hidden_states": Block, "attentions": SelfAttention}
    _keep_in_fp32_modules_strict: ClassVar[set[str]] = {"alibi"}
    _constructed = False

    def __init__(self, config: Any) -> None:
        _refuse_attention(config, config._attn_implementation)  # before anybody asks for a package that would not help
        super().__init__(config)

    def set_attn_implementation(self, attn_implementation: Any, **kwargs: Any) -> None:
        """Change the attention implementation; one that this model cannot have is refused.

        Raises:
            ValueError: The text names what to choose instead.
        """
        _refuse_attention(self.config, attn_implementation)
        super().set_attn_implementation(attn_implementation, **kwargs)

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
    """Embeddings, layers, final norm.

    A definition sets `embed_tokens`, `layers`, `norm` and, if it rotates, `rotary_emb`; what its embeddings go through
    before the first layer it says in `prepare`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False

    def post_init(self) -> None:
        """transformers' last step of construction, once all layers are there."""
        self._no_split_modules = sorted({type(layer).__name__ for layer in self.layers})
        attentions = [module for module in self.modules() if isinstance(module, SelfAttention)]
        for attention in attentions:
            attention.config = self.config
        # The class: it says what all of its instances need at each call, and what attention does with it.
        self._alibi: Any = next((type(a.alibi) for a in attentions if a.alibi is not None), None)
        self._windows = [_window_of(layer) for layer in self.layers]
        super().post_init()

    def prepare(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """What embeddings [B, T, D] go through before the first layer, at positions [B, T]."""
        return inputs_embeds

    def backend_problem(self) -> str | None:
        """Why a server's own attention, which knows queries, keys and values alone, cannot compute this model."""
        return "it has no way to add the biases of ALiBi" if self._alibi is not None else None

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
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
            attention_mask: [B, S], 0 on padding, cached tokens counted; or a ready mask [B, 1, T, S], or one for each
                kind of layer by transformers' name for it.
            position_ids: [B, T]. Where they restart, a new document begins, and sees nothing before it.
            past_key_values, cache: Keys and values of earlier tokens, by either name.
            inputs_embeds: What `embed_tokens` gives, instead of token ids.
            use_cache: Whether to return a cache. Gradient checkpointing recomputes layers, and goes without one.
            **kwargs: Handed on to attention.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        cache = the_cache(past_key_values, cache)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if self.gradient_checkpointing and self.training:
            if cache is not None and cache.get_seq_length() > 0:
                raise ValueError("gradient checkpointing recomputes layers and cannot train upon a filled cache")
            use_cache, cache = False, None
        here = self._layers_here()
        filled = cache_of(here, cache)
        masks = self._masks(inputs_embeds, attention_mask, position_ids, filled, self._windows[here])
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = positions(inputs_embeds, attention_mask, cached_length(filled))
        hidden_states = inputs_embeds
        if here.start == 0:  # a later stage of a pipeline is given hidden states, prepared long ago
            hidden_states = self.prepare(inputs_embeds, position_ids)
        if (rotary_emb := getattr(self, "rotary_emb", None)) is not None:
            kwargs = {"position_embeddings": rotary_emb(inputs_embeds, position_ids)} | kwargs
        attention_function = self._attention_function()
        for layer, window in zip(list(self.layers)[here], self._windows[here], strict=True):
            mask, more = masks[window]
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                position_ids=position_ids,
                cache=cache,
                attention_function=attention_function,
                **(more | kwargs),  # document lengths given by the caller win
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **{CACHE: cache})

    def _layers_here(self) -> slice:
        """All layers, but in a stage of a pipeline: there identities stand for the layers of the others."""
        here = [i for i, layer in enumerate(self.layers) if not isinstance(layer, nn.Identity)]
        return slice(here[0], here[-1] + 1) if here else slice(len(self.layers), None)

    def _masks(
        self,
        inputs_embeds: Tensor,
        attention_mask: Any,
        position_ids: Tensor | None,
        cache: Cache | None,
        windows: list[int | None],
    ) -> dict[int | None, tuple[Any, dict[str, Any]]]:
        """For each sliding window among the layers: its mask, and what else attention must be told."""
        masks = {}
        for window in dict.fromkeys(windows):
            given = attention_mask
            if isinstance(given, dict):  # made by generate(), for a cache that is compiled
                given = given["full_attention" if window is None else "sliding_attention"]
            mask, more = decoder_mask(
                self.config,
                inputs_embeds,
                attention_mask=given,
                cache=cache,
                position_ids=position_ids,
                sliding_window=window,
            )
            if self._alibi is not None:
                layer = windows.index(window)
                where = {"cache": cache, "past_length": cached_length(cache), "layer_idx": layer}
                more |= self._alibi.arguments(inputs_embeds, given, **where)
            masks[window] = (mask, more)
        return masks

    def _attention_function(self) -> AttentionFunction:
        implementation = self.config._attn_implementation
        function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
        return self._alibi.attention_function(function, implementation) if self._alibi is not None else function


def _refuse_attention(config: Any, implementation: Any) -> None:
    refused: dict[str, str] = getattr(config, "unsupported_attention", dict)()
    kind = "flash_attention_2" if "flash" in str(implementation) else implementation  # a hub's kernels have other names
    if isinstance(implementation, str) and kind in refused:
        raise ValueError(f"attn_implementation '{implementation}': {refused[kind]}")


def cache_of(layers: slice, cache: Cache | None) -> Cache | None:
    """The cache of these layers alone: it tells its length by its first, which a stage of a pipeline may not have."""
    if cache is None or layers.start == 0:
        return cache
    view = copy.copy(cache)
    view.layers = cache.layers[layers]
    return view


def _window_of(layer: nn.Module) -> int | None:
    windows = [module.sliding_window for module in layer.modules() if isinstance(module, SelfAttention)]
    return windows[0] if windows else None


def positions(inputs_embeds: Tensor, attention_mask: Any, past_length: int | Tensor) -> Tensor:
    """The position of each token where the caller gave none: how many real tokens stand before it.

    Args:
        inputs_embeds: [B, T, D].
        attention_mask: [B, up to now], 0 on padding; anything else tells nothing of padding.
        past_length: How many tokens the cache holds.

    Returns:
        [B, T], or [1, T] where all rows have the same.
    """
    steps = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past_length
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return steps.unsqueeze(0)
    counted = attention_mask.to(steps.device).long().cumsum(-1)
    return (counted[:, steps.clamp(max=counted.shape[1] - 1)] - 1).clamp(min=0)
