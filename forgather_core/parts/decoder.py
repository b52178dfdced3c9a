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

from forgather_core.parts.block import Block
from forgather_core.parts.caches import CACHE, cache_of, cached_length, count_tokens, resolve_cache, takes_cache
from forgather_core.parts.layer_inputs import LayerInputs
from forgather_core.parts.layer_values import LayerValues
from forgather_core.parts.outputs import DecoderOutput
from forgather_core.parts.pretrained import Pretrained
from forgather_core.parts.requirements import Needs, check_inputs, check_layer_types, configured_needs, needs_of
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
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.config = self.config
        self._needs = self._collect_needs()
        check_layer_types(self.config, self._needs)
        check_inputs(self._needs)
        if any(needs.bias is not None for needs in self._needs):
            self._keep_in_fp32_modules_strict = {"alibi"}
        self._window = getattr(self.config, "sliding_window", None)
        super().post_init()

    def prepare(self, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
        """Transform embeddings [B, T, D] before the first layer, at positions [B, T]; the default returns them."""
        return inputs_embeds

    def backend_problem(self) -> str | None:
        """Return the reason why a kernel of queries, keys and values only cannot run this model, or None."""
        biased = any(needs.bias is not None for needs in self._needs)
        return "it does not support the biases of ALiBi" if biased else None

    def rotary(self, name: str) -> nn.Module | None:
        """Return the rotary embedding of a name: `rotary_emb` for "default", else `rotary_emb_NAME`; None for none."""
        return getattr(self, "rotary_emb" if name == "default" else f"rotary_emb_{name}", None)

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
        inputs = LayerInputs(
            self.config,
            inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=filled,
            rotary=self.rotary if "position_embeddings" not in kwargs else _no_rotary,
        )
        needs = [self._needs_at(local.start + i, layer) for i, layer in enumerate(layers)]
        # Before the first layer, which changes the length of the cache.
        arguments = [inputs.of(need, i) for i, need in enumerate(needs)]
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        values = LayerValues(**inputs.provided(needs), input_ids=input_ids)
        hidden_states = inputs_embeds
        if local.start == 0:  # later pipeline stages receive hidden states
            hidden_states = self.prepare(inputs_embeds, inputs.position_ids)
            values.add(inputs_embeds=hidden_states)
        for layer, need, own in zip(layers, needs, arguments, strict=True):
            more = own | {"use_cache": use_cache, _cache_name(layer): cache} | kwargs  # the caller's take precedence
            hidden_states = values.run(layer, hidden_states, need, more)
        count_tokens(local, cache, inputs.past_length + inputs_embeds.shape[1])
        output = {"last_hidden_state": self.norm(hidden_states), CACHE: cache}
        if values.returned:
            return DecoderOutput(**output, layer_values=values.returned)
        return BaseModelOutputWithPast(**output)

    def _apply_window_change(self) -> None:
        """Apply a change of `config.sliding_window` after construction.

        Caches and masks are created from the configuration, and transformers' layers read it at each call.
        """
        window = getattr(self.config, "sliding_window", None)
        if window == self._window:
            return
        kinds = getattr(self.config, "layer_types", None) or ["sliding_attention"] * len(self.layers)
        self._window = window
        for layer, kind in zip(self.layers, kinds, strict=False):
            for module in layer.modules():
                if isinstance(module, SelfAttention):
                    module.sliding_window = window if kind == "sliding_attention" else None
            for module in layer.modules():
                if isinstance(module, Block):
                    module.collect_needs()
        self._needs = self._collect_needs()

    def _collect_needs(self) -> list[Needs]:
        return [needs_of(layer, configured_needs(self.config, i)) for i, layer in enumerate(self.layers)]

    def _needs_at(self, index: int, layer: nn.Module) -> Needs:
        """Return the needs of a layer; a layer of another model, which declares none, has those of its place."""
        known = index < len(self._needs)  # layers may have been added
        return needs_of(layer, self._needs[index] if known else configured_needs(self.config, index))

    def _local_layers(self) -> slice:
        """Return the slice of layers to run.

        All layers, except placeholders for the layers of other pipeline stages, and those beyond
        `config.num_hidden_layers`, which generation with early exit lowers for its draft.
        """
        local = [i for i, layer in enumerate(self.layers) if not _is_placeholder(layer)]
        stop = self.config.num_hidden_layers
        return slice(local[0], min(local[-1] + 1, stop)) if local else slice(len(self.layers), None)


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
    if cached_length(cache) > 0:
        raise ValueError(
            "gradient checkpointing recomputes layers and does not support training with a filled cache: "
            "pass no cache, call gradient_checkpointing_disable(), or use torch.no_grad()"
        )
    logger.warning_once("gradient checkpointing does not fill the cache while gradients are recorded")


def _no_rotary(name: str) -> None:
    """Return None: the caller has passed the position embeddings."""


def _is_placeholder(layer: nn.Module) -> bool:
    """Return whether a layer is a placeholder of transformers or vLLM; a plain Identity is not."""
    return isinstance(layer, nn.Identity) and type(layer) is not nn.Identity
