"""The key/value cache: its two argument names, its length, updates, and the cache of a slice of the layers.

transformers before 5.24 names the argument `past_key_values`, later releases `cache`. Models accept both names and
return the cache under the name of the installed release, which `generate` reads. A cache under the wrong name raises no
error, but the model would attend to the last token alone.
"""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from transformers import Cache
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.deprecation import deprecate_kwarg

_COUNTED = "_counted_tokens"
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"

Forward = TypeVar("Forward", bound=Callable[..., Any])


def takes_cache(forward: Forward) -> Forward:
    """Decorate a `forward` that accepts both names of the cache: the old name warns if transformers deprecates it."""
    if CACHE == "past_key_values":
        return forward
    decorated: Forward = deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")(forward)
    return decorated


def resolve_cache(past_key_values: Cache | None, cache: Cache | None) -> Cache | None:
    """Return the cache that was passed under either name, or None.

    Raises:
        ValueError: Two different caches were passed.
    """
    if past_key_values is not None and cache is not None and past_key_values is not cache:
        raise ValueError("cache and past_key_values are two names of one argument: pass one of them")
    return past_key_values if past_key_values is not None else cache


def is_paged(cache: Any) -> bool:
    """Return whether a cache is the paged cache of continuous batching, with the tokens of all requests."""
    return isinstance(cache, PagedAttentionCache)


def fill_cache(
    cache: Cache | None, key: Tensor, value: Tensor, layer_idx: int, kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Add keys and values to the cache.

    Args:
        cache: The cache, or None.
        key, value: Keys and values of this call, [B, G, T, K].
        layer_idx: Index of the layer in the cache.
        kwargs: Further arguments of the attention function. A paged cache reads its indices from them, and adds the
            arguments that the function needs.

    Returns:
        All keys and values to attend to, [B, G, S, K].
    """
    if cache is None:
        return key, value
    if CACHE == "past_key_values" and is_paged(cache):  # before 5.24 the attention function updates it
        kwargs["cache"] = cache
        return key, value
    return cache.update(key, value, layer_idx, kwargs=kwargs)


def cached_length(cache: Cache | None) -> int | Tensor:
    """Return the number of cached tokens; 0 for a paged cache, whose requests have different lengths."""
    if cache is None or is_paged(cache):
        return 0
    if has_only_states(cache):
        return getattr(cache, _COUNTED, 0) if any(_has_state(layer) for layer in cache.layers) else 0
    length = cache.get_seq_length()
    # A static cache returns its own counter, which changes while the layers run; in some releases its shape is [1].
    return length.clone().reshape(()) if isinstance(length, Tensor) else length


def has_only_states(cache: Any) -> bool:
    """Return whether no layer of a cache holds keys: such a cache does not know its length."""
    return bool(cache.layers) and not any(hasattr(layer, "get_seq_length") for layer in cache.layers)


def count_tokens(layers: slice, cache: Cache | None, length: int | Tensor) -> None:
    """Set the length of a cache after a call, if these layers hold states only: such a cache does not count tokens."""
    if cache is not None and not is_paged(cache) and has_only_states(cache_of(layers, cache)):
        setattr(cache, _COUNTED, length)


def _has_state(layer: Any) -> bool:
    """Return whether a layer holds a state; not after `reset`."""
    return any(getattr(layer, "has_previous_state", {}).values())


class CacheAtCall:
    """A view of one layer of a cache that keeps the length at the beginning of a call, while the layers fill the cache.

    A static cache counts its tokens in a tensor. flex_attention evaluates its mask when a layer calls it, after the
    cache has counted the new tokens. A mask that reads that tensor would be the mask of later queries.

    Args:
        cache: The cache.
        layer_idx: The layer. transformers does not find the layers of a kind in a view, and asks for the first one.
    """

    def __init__(self, cache: Cache, layer_idx: int) -> None:
        self._cache, self._layer_idx = cache, layer_idx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int | Tensor:
        """Return the number of cached tokens."""
        return _copied(self._cache.get_seq_length(*args, **kwargs))

    def get_mask_sizes(self, query_length: int, *_: Any, **__: Any) -> tuple[int, int]:
        """Return the number of keys of the layer, cached and new, and the position of the first one."""
        return self._cache.get_mask_sizes(query_length, self._layer_idx)

    def get_query_offset(self, *_: Any, **__: Any) -> int | Tensor:
        """Return the position of the first query."""
        return _copied(self._cache.get_query_offset(self._layer_idx))


def _copied(length: int | Tensor) -> int | Tensor:
    return length.clone() if isinstance(length, Tensor) else length


def cache_of(layers: slice, cache: Cache | None) -> Cache | None:
    """Return a view of the cache with only these layers.

    The length of a cache is that of its first layer, which is empty in later pipeline stages.
    """
    if cache is None or layers.start == 0:
        return cache
    view = copy.copy(cache)
    view.layers = cache.layers[layers]
    return view
