"""The decoder without a head: token ids in, hidden states out.

Handles what all decoders share: positions, masks, caches, packing, gradient checkpointing, pipeline stages. A
definition adds its layers; `language_model.py` adds a head.
"""

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, logging
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from forgather_core.parts.blocks import Block
from forgather_core.parts.caches import CACHE, cache_of, cached_length, resolve_cache, takes_cache
from forgather_core.parts.masks import decoder_mask
from forgather_core.parts.positions import positions
from forgather_core.parts.pretrained import Pretrained
from forgather_core.parts.self_attention import SelfAttention
from forgather_core.parts.weight_pieces import draw_seed

logger = logging.get_logger(__name__)


class Decoder(Pretrained):
    """Base of decoders: embeddings, layers, final norm.

    A definition sets `embed_tokens`, `layers`, `norm` and, with RoPE, `rotary_emb`. It overrides `prepare` to transform
    the embeddings before the first layer.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if torch.get_default_device().type != "meta":
            self._base_seed = draw_seed()  # before torch's own modules consume random numbers
        self.gradient_checkpointing = False

    def post_init(self) -> None:
        """Finish construction, once all layers exist. Call it last in `__init__`."""
        self._no_split_modules = sorted({type(layer).__name__ for layer in self.layers})
        attentions = [module for module in self.modules() if isinstance(module, SelfAttention)]
        for attention in attentions:
            attention.config = self.config
        # The class: its static methods provide the arguments of all instances and wrap the attention function.
        self._alibi: Any = next((type(a.alibi) for a in attentions if a.alibi is not None), None)
        if self._alibi is not None:
            self._keep_in_fp32_modules_strict = {"alibi"}
        self._windows = [_window_of(layer, None) for layer in self.layers]
        for layer, window in zip(self.layers, self._windows, strict=True):
            layer.sliding_window = window
        self._window = getattr(self.config, "sliding_window", None)
        super().post_init()

    def prepare(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """Transform embeddings [B, T, D] before the first layer, at positions [B, T]; the default returns them."""
        return inputs_embeds

    def backend_problem(self) -> str | None:
        """Return the reason why a kernel of queries, keys and values only cannot run this model, or None."""
        return "it does not support the biases of ALiBi" if self._alibi is not None else None

    @takes_cache
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
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]  # transformers has no types for mypy
    ) -> BaseModelOutputWithPast:
        """Compute hidden states [B, T, D] from token ids [B, T] or embeddings [B, T, D].

        Args:
            input_ids: Token ids, or None if `inputs_embeds` is passed.
            attention_mask: [B, S], 0 on padding, cached tokens included; or a four-dimensional mask [B, 1, T, S]; or a
                mapping from transformers' name of a layer type to such a mask.
            position_ids: [B, T]. A restart begins a new document, which does not attend to earlier ones.
            past_key_values, cache: The cache (two names of one argument).
            inputs_embeds: Embeddings, as `embed_tokens` returns them, instead of token ids.
            use_cache: Whether to return a cache. While gradients are recorded, gradient checkpointing recomputes
                layers and uses no cache.
            **kwargs: Further arguments of attention.

        Returns:
            The last hidden states [B, T, D], and the cache or None.

        Raises:
            ValueError: Not exactly one of `input_ids` and `inputs_embeds` is passed; or gradient checkpointing is
                active while gradients are recorded, and the cache contains tokens.
        """
        if (input_ids is None) == (inputs_embeds is None):
            got = "neither" if input_ids is None else "both"
            raise ValueError(f"expected either input_ids or inputs_embeds, got {got}: pass one of them")
        cache = resolve_cache(past_key_values, cache)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            _check_cache_is_empty(cache)
            use_cache, cache = False, None
        self._apply_window_change()
        local = self._local_layers()
        filled, layers = cache_of(local, cache), list(self.layers)[local]
        known = self._windows + [None] * len(self.layers)  # as of construction; layers may have been added
        windows = [_window_of(layer, window) for layer, window in zip(layers, known[local], strict=False)]
        masks = self._masks(inputs_embeds, attention_mask, position_ids, filled, windows)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = positions(inputs_embeds, attention_mask, cached_length(filled))
        hidden_states = inputs_embeds
        if local.start == 0:  # later pipeline stages receive hidden states
            hidden_states = self.prepare(inputs_embeds, position_ids)
        if (rotary_emb := getattr(self, "rotary_emb", None)) is not None and "position_embeddings" not in kwargs:
            kwargs["position_embeddings"] = rotary_emb(inputs_embeds, position_ids=position_ids)
        for layer, window in zip(layers, windows, strict=True):
            mask, more = masks[window]
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                position_ids=position_ids,
                use_cache=use_cache,
                **{_cache_name(layer): cache},
                **(more | kwargs),  # document lengths from the caller take precedence
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **{CACHE: cache})

    def _apply_window_change(self) -> None:
        """Apply a change of `config.sliding_window` after construction.

        Caches and masks are created from the configuration, and transformers' layers read it at each call.
        """
        window = getattr(self.config, "sliding_window", None)
        if window == self._window:
            return
        kinds = getattr(self.config, "layer_types", None) or ["sliding_attention"] * len(self.layers)
        self._window, self._windows = window, [window if kind == "sliding_attention" else None for kind in kinds]
        for layer, own in zip(self.layers, self._windows, strict=False):
            layer.sliding_window = own
            for module in layer.modules():
                if isinstance(module, SelfAttention):
                    module.sliding_window = own

    def _local_layers(self) -> slice:
        """Return the slice of layers to run.

        All layers, except placeholders for the layers of other pipeline stages, and those beyond
        `config.num_hidden_layers`, which generation with early exit lowers for its draft.
        """
        local = [i for i, layer in enumerate(self.layers) if not _is_placeholder(layer)]
        stop = self.config.num_hidden_layers
        return slice(local[0], min(local[-1] + 1, stop)) if local else slice(len(self.layers), None)

    def _masks(
        self,
        inputs_embeds: Tensor,
        attention_mask: Any,
        position_ids: Tensor | None,
        cache: Cache | None,
        windows: list[int | None],
    ) -> dict[int | None, tuple[Any, dict[str, Any]]]:
        """Return, for each distinct sliding window, its mask and the further arguments of the attention function."""
        masks = {}
        for window in dict.fromkeys(windows):
            given = attention_mask
            if isinstance(given, dict):  # generate() makes these for compileable caches
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
                more |= self._alibi.arguments(inputs_embeds, given, position_ids=position_ids, **where)
            masks[window] = (mask, more)
        return masks


def _cache_name(layer: nn.Module) -> str:
    """Return the name of the cache argument of a layer.

    Before 5.24, transformers' layers, which may replace Forgather's, accept `past_key_values` only. Gradient
    checkpointing drops an argument of that name, even if no gradients are recorded and the cache must be filled.
    """
    return "cache" if isinstance(layer, Block) else CACHE


def _check_cache_is_empty(cache: Cache | None) -> None:
    """Check that gradient checkpointing can ignore the cache: backward would fill it a second time.

    Raises:
        ValueError: The cache contains tokens.
    """
    if cache is None:
        return
    if cache.get_seq_length() > 0:
        raise ValueError(
            "gradient checkpointing recomputes layers and does not support training with a filled cache: "
            "pass no cache, call gradient_checkpointing_disable(), or use torch.no_grad()"
        )
    logger.warning_once("gradient checkpointing does not fill the cache while gradients are recorded")


def _window_of(layer: Any, default: int | None) -> int | None:
    """Return the sliding window of a layer, also within a wrapper; `default` for a layer of another model."""
    if hasattr(layer, "sliding_window"):
        return layer.sliding_window
    windows = [module.sliding_window for module in layer.modules() if isinstance(module, SelfAttention)]
    return windows[0] if windows else default


def _is_placeholder(layer: nn.Module) -> bool:
    """Return whether a layer is a placeholder of transformers or vLLM; a plain Identity is not."""
    return isinstance(layer, nn.Identity) and type(layer) is not nn.Identity
