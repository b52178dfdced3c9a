"""The key/value cache: its names, its length, how it is filled, and the part of it that belongs to some layers.

transformers calls it `past_key_values`, and from 5.24 on `cache`. Models take both, and answer by the name that the
installed release uses, so that its `generate` finds the cache: nobody would miss one that is lost, but the model would
see the last token alone.
"""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.deprecation import deprecate_kwarg

CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"

Forward = TypeVar("Forward", bound=Callable[..., Any])


def takes_cache(forward: Forward) -> Forward:
    """Decorate a `forward` that takes the cache by both names: the old one warns where transformers' models warn."""
    if CACHE == "past_key_values":
        return forward
    decorated: Forward = deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")(forward)
    return decorated


def the_cache(past_key_values: Cache | None, cache: Cache | None) -> Cache | None:
    """The one that was given.

    Raises:
        ValueError: Two different ones were.
    """
    if past_key_values is not None and cache is not None and past_key_values is not cache:
        raise ValueError("cache and past_key_values are two names of one thing: give one of them")
    return past_key_values if past_key_values is not None else cache


def is_paged(cache: Any) -> bool:
    """Whether a cache is that of continuous batching: the tokens of all requests, in pages."""
    return isinstance(cache, PagedAttentionCache)


def fill_cache(
    cache: Cache | None, key: Tensor, value: Tensor, layer_idx: int, kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Add this call's keys and values to the cache.

    Args:
        cache: The cache, or None.
        key, value: [B, G, T, K].
        layer_idx: The layer of the cache.
        kwargs: The further arguments of the attention function. A paged cache reads its indices there, and writes what
            the function needs.

    Returns:
        The keys and values to attend to.
    """
    if cache is None:
        return key, value
    if CACHE == "past_key_values" and is_paged(cache):  # before 5.24 the attention function does it
        kwargs["cache"] = cache
        return key, value
    return cache.update(key, value, layer_idx, kwargs=kwargs)


def cached_length(cache: Cache | None) -> int | Tensor:
    """How many tokens a cache has seen; 0 for a paged cache, each of whose requests has a length of its own."""
    length = cache.get_seq_length() if cache is not None and not is_paged(cache) else 0
    # A static cache hands out its own counter, which moves on while the layers run; of one element, in some releases.
    return length.clone().reshape(()) if isinstance(length, Tensor) else length


def cache_of(layers: slice, cache: Cache | None) -> Cache | None:
    """The cache of these layers alone: it tells its length by its first, which a stage of a pipeline may not have."""
    if cache is None or layers.start == 0:
        return cache
    view = copy.copy(cache)
    view.layers = cache.layers[layers]
    return view
