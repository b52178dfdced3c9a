"""States of recurrent layers in the cache, which transformers calls linear attention (from 5.13 on)."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache


def cached_state(cache: Cache | None, layer_idx: int, index: int = 0) -> Tensor | None:
    """Return the state that earlier calls left for a layer, or None.

    Args:
        cache: The cache, or None.
        layer_idx: Index of the layer in the cache.
        index: Index of the state, for a layer with several.

    Raises:
        ValueError: The cache has no state for this layer; the message names the option.
    """
    if cache is None:
        return None
    layer = _state_layer(cache, layer_idx)
    return layer.recurrent_states[index] if layer.has_previous_state[index] else None


def keep_state(cache: Cache | None, layer_idx: int, state: Tensor, index: int = 0) -> None:
    """Keep the state of a layer, [B, ...], for the next call; without a cache, do nothing.

    transformers' own method does not mark a layer that has no convolution as filled, and then returns no state.

    Raises:
        ValueError: The cache has no state for this layer; the message names the option.
    """
    if cache is None:
        return
    layer = _state_layer(cache, layer_idx)
    if torch.is_grad_enabled() and state.requires_grad:
        layer.recurrent_states[index], layer.is_recurrent_states_initialized[index] = state, True
    else:
        layer.update_recurrent_state(state, index)
    layer.device, layer.dtype = state.device, state.dtype
    layer.has_previous_state[index] = True


def _state_layer(cache: Cache, layer_idx: int) -> Any:
    layer: Any = cache.layers[layer_idx] if layer_idx < len(cache.layers) else None
    if not hasattr(layer, "recurrent_states"):
        raise ValueError(
            f"layer {layer_idx} needs a cache with a state: set layer_types[{layer_idx}] to 'linear_attention', pass "
            "DynamicCache(config=model.config), and install transformers 5.13 or later"
        )
    return layer
